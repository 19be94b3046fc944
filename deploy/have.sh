#!/bin/sh
# What this machine has, for TEST_HAVE: a test that needs one of these and is
# skipped fails instead.
set -eu
have=root
if [ -e /sys/fs/cgroup/cgroup.controllers ] || [ -e /sys/fs/cgroup/unified/cgroup.controllers ]; then have=$have,cgroupv2; fi
if [ -d /sys/fs/cgroup/memory ]; then have=$have,cgroupv1; fi
if [ -x /usr/bin/python3 ]; then have=$have,python3; fi
PATH=$PATH:/usr/sbin
for p in uwsgi nginx curl; do
	if command -v $p >/dev/null; then have=$have,$p; fi
done
for m in flask django; do
	if [ -d /usr/lib/python3/dist-packages/$m ]; then have=$have,$m; fi
done
# open_tree and mount_setattr came with Linux 5.12.
if [ "$(printf '%s\n' 5.12 "$(uname -r)" | sort -V | head -n 1)" = 5.12 ]; then have=$have,opentree; fi
echo "$have"
