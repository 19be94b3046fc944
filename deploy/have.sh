#!/bin/sh
# What this machine has, for TEST_HAVE: a test that needs one of these and is
# skipped fails instead.
set -eu
have=root
[ -e /sys/fs/cgroup/cgroup.controllers ] && have=$have,cgroup2
[ -e /sys/fs/cgroup/unified/cgroup.controllers ] && have=$have,cgroup2
[ -d /sys/fs/cgroup/memory ] && have=$have,cgroup1
[ -x /usr/bin/python3 ] && have=$have,python3
[ -x /usr/bin/uwsgi ] && have=$have,uwsgi
command -v nginx >/dev/null && have=$have,nginx
echo "$have"
