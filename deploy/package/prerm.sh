#!/bin/sh
# Before the files go: Debian's prerm (remove, upgrade NEW-VERSION, …), RPM's
# %preun (0: the last version goes; 1: another one is there already). An
# upgrade stops nothing.
set -eu
case ${1:-} in
remove | 0) ;;
*) exit 0 ;;
esac
if [ -d /run/systemd/system ]; then
	# It drains every vassal. Those that a killed Emperor left, or that did not
	# end in time, would run on with nobody to look after them.
	systemctl stop liege.service || true
	if systemctl --quiet is-active liege-vassals.service; then
		systemctl kill --kill-who=all --signal=KILL liege-vassals.service || true
		systemctl stop liege-vassals.service || true
		systemctl reset-failed liege-vassals.service 2>/dev/null || true
	fi
	systemctl stop liege.slice || true
	# What a killed Emperor left: the private /tmp of its vassals, and cgroups in
	# v1 hierarchies that systemd has nothing to do with.
	sed -n 's|^\([^ ]* \)\{4\}\(/run/liege/[^ ]*\) .*|\2|p' /proc/self/mountinfo | sort -r | xargs -r umount || true
	for _ in 1 2 3 4 5; do # until the kernel is done with who was killed
		find /sys/fs/cgroup -mindepth 2 -depth -type d -path '*/liege.slice*' -exec rmdir {} + 2>/dev/null && break
		sleep 1
	done
fi
if [ "$1" = 0 ] && command -v systemctl >/dev/null; then systemctl --no-reload disable liege.service || true; fi
