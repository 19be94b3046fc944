#!/bin/sh
# After the files are gone: Debian's postrm (remove, purge, upgrade, …), RPM's
# %postun (0: the last version is gone).
#
# A removal keeps what a later installation goes on with: settings, vassals,
# logs, state. A purge removes what is Liege's. Two things it keeps, always:
# /etc/vassals if files are in it, for they are not Liege's; and which user was
# allotted to which vassal, as long as there were any: files of these users may
# be anywhere, and nobody else's vassal may become their owner.
set -eu
reload() {
	if [ -d /run/systemd/system ]; then systemctl --system daemon-reload || true; fi
}

remove_policy() {
	command -v semodule >/dev/null 2>&1 || return 0
	noreload=
	if [ ! -d /run/systemd/system ]; then noreload=-N; fi
	# shellcheck disable=SC2086 # nothing or one option
	{
		semodule $noreload -l 2>/dev/null | grep -qx liege || return 0
		semodule $noreload -r liege ||
			echo "liege: its SELinux module stays: modules of applications build on it; hint: semodule -l | grep webapp_, semodule -r each, then semodule -r liege" >&2
	}
}

purge() {
	if command -v deb-systemd-helper >/dev/null; then deb-systemd-helper purge liege.service >/dev/null || true; fi
	remove_policy
	# Never into a mount: it may show an application's directory.
	rm -rf --one-file-system /run/liege /var/log/liege ||
		echo "liege: something is still mounted below /run/liege; hint: umount it, then rm -r /run/liege" >&2
	uids=/var/lib/liege/auto-uid.json
	# A name that begins with "-" is one of Liege's own users, who owns no file.
	if grep -q '^[[:space:]]*"[^-]' $uids 2>/dev/null; then
		find /var/lib/liege -xdev -mindepth 1 ! -path $uids -delete
		echo "liege: kept $uids: the users allotted to vassals, who may own files; hint: remove it when they own none" >&2
	else
		rm -rf --one-file-system /var/lib/liege
	fi
	rmdir /etc/liege /etc/vassals 2>/dev/null || true
}

case ${1:-} in
remove) reload ;;
purge) purge ;;
0)
	reload
	remove_policy
	;;
esac
