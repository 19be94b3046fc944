#!/bin/sh
# What this machine has, for TEST_HAVE: a test that needs one of these and is
# skipped fails instead.
set -eu
have=root
if [ -e /sys/fs/cgroup/cgroup.controllers ] || [ -e /sys/fs/cgroup/unified/cgroup.controllers ]; then have=$have,cgroupv2; fi
if [ -d /sys/fs/cgroup/memory ]; then have=$have,cgroupv1; fi
if [ -e /sys/fs/cgroup/freezer/cgroup.procs ]; then have=$have,freezer; fi
if [ ! -e /sys/fs/selinux/enforce ]; then have=$have,no-selinux; fi
if [ -e /proc/net/ip_tables_names ]; then have=$have,ip-tables; fi
if [ -x /usr/bin/python3 ]; then have=$have,python3; fi
PATH=$PATH:/usr/sbin
for p in uwsgi nginx curl perl lua php-cgi node dpkg rpm mmdebstrap; do
	if command -v $p >/dev/null; then have=$have,$p; fi
done
if [ -x /usr/bin/ruby ] && [ -x /usr/bin/bundle ] && [ -d /usr/share/doc/ruby-rack ]; then have=$have,ruby; fi
if [ -x /usr/bin/java ] && [ -x /usr/bin/javac ]; then have=$have,java; fi
if [ -e /usr/share/perl5/Plack/Util.pm ]; then have=$have,plack; fi
if [ -e /usr/share/wordpress/wp-content/themes/twentytwentythree ] && [ -x /usr/sbin/mariadbd ]; then have=$have,wordpress; fi
for m in flask django starlette gevent grpc; do
	if [ -d /usr/lib/python3/dist-packages/$m ]; then have=$have,$m; fi
done
if [ -d /usr/lib/python3/dist-packages/paste/deploy ]; then have=$have,paste; fi
if [ "$(uname -m)" = x86_64 ] && command -v qemu-system-x86_64 >/dev/null; then have=$have,vm; fi
if command -v semodule >/dev/null && command -v setfiles >/dev/null && command -v secilc >/dev/null; then have=$have,semodule; fi
if [ -e /var/lib/selinux/default/active/modules/100/base/cil ]; then have=$have,debianpolicy; fi
if command -v sesearch >/dev/null; then have=$have,setools; fi
if [ "$(cat /proc/sys/user/max_user_namespaces 2>/dev/null || echo 0)" -gt 0 ]; then have=$have,userns; fi
if command -v mkfs.xfs >/dev/null && grep -qw xfs /proc/filesystems && losetup -f >/dev/null 2>&1; then have=$have,loop; fi
if [ -e /dev/fuse ]; then have=$have,fuse; fi
if grep -q '^0*1 ' /proc/net/if_inet6 2>/dev/null; then have=$have,ipv6; fi
# open_tree and mount_setattr came with Linux 5.12.
if [ "$(printf '%s\n' 5.12 "$(uname -r)" | sort -V | head -n 1)" = 5.12 ]; then have=$have,opentree; fi
# IP_LOCAL_PORT_RANGE came with Linux 6.3.
if [ "$(printf '%s\n' 6.3 "$(uname -r)" | sort -V | head -n 1)" = 6.3 ]; then have=$have,portrange; fi
# The scopes of Landlock came with Linux 6.12; it can be built in and off.
if [ "$(printf '%s\n' 6.12 "$(uname -r)" | sort -V | head -n 1)" = 6.12 ] && [ -x /usr/bin/python3 ] &&
	/usr/bin/python3 -c 'import ctypes, sys; sys.exit(ctypes.CDLL(None).syscall(444, 0, 0, 1) < 6)'; then have=$have,landlock; fi
if { zcat /proc/config.gz || cat "/boot/config-$(uname -r)"; } 2>/dev/null | grep -q '^CONFIG_NF_TABLES=y' || modprobe -nq nf_tables 2>/dev/null; then have=$have,nftables; fi
echo "$have"
