#!/bin/bash
# The Emperor over deploy/demo/vassals, with everything it writes below ./run.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "$(id -u)" != 0 ]; then
	echo "make run: needs root: the Emperor makes namespaces and cgroups" >&2
	echo "hint: sudo make run" >&2
	exit 77
fi
run=$PWD/run
mkdir -p "$run"
chmod 755 "$run"
echo "hello    http://127.0.0.1:8080/    deploy/demo/vassals/hello.ini"
echo "static   http://127.0.0.1:8081/    deploy/demo/vassals/static.ini"
echo
echo "In another terminal:   export LIEGE_RUN_DIR=$run/liege; bin/liege status"
echo "Ctrl-C ends it."
echo
rc=0
bin/liege emperor --run-dir "$run/liege" --log-dir "$run/log" --state-dir "$run/state" "$@" "$PWD/deploy/demo/vassals" || rc=$?
rm -rf "$run"
exit "$rc"
