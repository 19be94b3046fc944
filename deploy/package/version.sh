#!/bin/sh
# The version of a package, legal for Debian and RPM, from what git describe
# says (and, where there is no tag of a version, from the commit's date, so that
# a later commit is a later version):
#
#	v1.2.0-rc1           1.2.0~rc1
#	v1.2.3               1.2.3
#	v1.2.3-5-gabcdef0    1.2.3+5.gabcdef0
#	abcdef0-dirty        0~git20260102030405.abcdef0+dirty
#	mark-2-gabcdef0      0~git20260102030405.abcdef0
set -eu
described=$1 date=${2:-0}
v=${described#v} dirty=
case $v in *-dirty) v=${v%-dirty} dirty=+dirty ;; esac
case $v in
[0-9]*.*) v=$(echo "$v" | sed -E 's/-([0-9]+)-g([0-9a-f]+)$/+\1.g\2/; s/-/~/g') ;;
*) v=0~git$date.$(echo "$v" | sed -E 's/.*-g([0-9a-f]+)$/\1/; s/[^A-Za-z0-9.+~]/./g') ;;
esac
echo "$v$dirty"
