#!/bin/sh
# After the files are in place: Debian's postinst, RPM's %post.
#
#	deb   configure [OLD-VERSION], abort-…
#	rpm   1 (first installation), 2 (upgrade)
#
# What a start needs is made (group, directories, SELinux module, labels); the
# service is enabled, and started on Debian, as is the custom there. It is
# never restarted: that drains every web application of the host, and a handover,
# which does not, starts a successor of each. The operator says when.
set -eu

case ${1:-} in
configure | 1) ;;
[2-9]*) set -- configure old ;;
*) exit 0 ;; # abort-upgrade and its kin: nothing was undone
esac
booted() { [ -d /run/systemd/system ]; }
have() { command -v "$1" >/dev/null 2>&1; }

groups_and_directories() {
	if have systemd-sysusers; then
		systemd-sysusers liege.conf
	elif ! getent group liege >/dev/null; then
		groupadd --system liege
	fi
	# It needs /proc, which a chroot may lack; there the next boot does it.
	if [ -e /proc/self ] && have systemd-tmpfiles; then systemd-tmpfiles --create liege.conf || true; fi
}

# policy_is tells whether a module is installed as it stands in a file. To
# install it takes seconds and a new policy for the whole host.
policy_is() (
	dir=$(mktemp -d) || exit 1
	trap 'rm -rf "$dir"' EXIT
	cd "$dir"
	semodule --cil --extract=liege >/dev/null 2>&1 && cmp -s liege.cil "$1"
)

# selinux installs the policy and labels what was installed. Without SELinux
# there is nothing to do; in a chroot the module is installed and not loaded.
# semodule changes everything or nothing, so after a failure the policy is what
# it was.
selinux() {
	have semodule || return 0
	type=$(sed -n 's/^SELINUXTYPE=[[:space:]]*//p' /etc/selinux/config 2>/dev/null | tail -n 1)
	[ -d "/var/lib/selinux/${type:-none}" ] || return 0
	module=/usr/share/liege/policy/liege.cil
	[ -e $module ] || return 0
	noreload=
	if ! booted; then noreload=-N; fi
	# shellcheck disable=SC2086 # nothing or one option
	if ! policy_is $module && ! semodule $noreload -i $module; then
		cat >&2 <<-END
			liege: THE SELINUX POLICY WAS NOT INSTALLED: semodule says why above.
			The package is installed and no other policy was changed, but Liege would
			run without its domains, so it is not started now.
			  hint: liege policy install && systemctl start liege
		END
		return 1
	fi
	# Not what vassals have open: dpkg and rpm label what they unpack, by the
	# policy that was there before.
	if have restorecon; then
		restorecon -R /usr/bin/liege /usr/libexec/liege /usr/share/liege /usr/lib/systemd/system/liege*.service /etc/liege /etc/vassals || true
		restorecon /run/liege /var/lib/liege /var/log/liege || true
	fi
}

enable_unit() {
	if have deb-systemd-helper; then
		# A service that its operator disabled stays so.
		if deb-systemd-helper --quiet was-enabled liege.service; then
			deb-systemd-helper enable liege.service >/dev/null || true
		else
			deb-systemd-helper update-state liege.service >/dev/null || true
		fi
	elif [ -z "${2:-}" ] && have systemctl; then
		systemctl --no-reload preset liege.service || true
	fi
}

start() {
	booted || return 0
	systemctl --system daemon-reload || true
	if [ -n "${2:-}" ] && systemctl --quiet is-active liege.service; then
		echo "liege: the Emperor that runs is the old one; hint: liege handover" >&2
	elif have deb-systemd-invoke; then
		deb-systemd-invoke start liege.service ||
			echo "liege: the service did not start; hint: journalctl -u liege" >&2
	fi
}

groups_and_directories
safe=yes
selinux || safe=no
enable_unit "$@"
if [ "$safe" = yes ]; then start "$@"; fi
