#!/bin/bash
# Installs what building, running and testing Liege needs and this machine
# lacks, through apt, and says what it does. Nothing to install: says nothing.
set -euo pipefail

# command or file → Debian package
need=(
	"gcc:gcc" "/usr/lib/x86_64-linux-gnu/libc.a:libc6-dev" "make:make" "git:git" "curl:curl"
	"/usr/bin/python3:python3"
	"shellcheck:shellcheck"
	"/usr/bin/uwsgi:uwsgi-core" "/usr/lib/uwsgi/plugins/python3_plugin.so:uwsgi-plugin-python3"
	"/usr/lib/uwsgi/plugins/php_plugin.so:uwsgi-plugins-all"
	"nginx:nginx-light"
	"/usr/lib/python3/dist-packages/flask/__init__.py:python3-flask"
	"/usr/lib/python3/dist-packages/django/__init__.py:python3-django"
	"wrk:wrk" "jq:jq"
)
[ "$(uname -m)" = x86_64 ] || need[1]="/usr/lib/$(uname -m)-linux-gnu/libc.a:libc6-dev"

missing=()
for n in "${need[@]}"; do
	what=${n%%:*} package=${n#*:}
	case $what in
	/*) [ -e "$what" ] || missing+=("$package") ;;
	*) command -v "$what" >/dev/null || missing+=("$package") ;;
	esac
done
if ! command -v go >/dev/null; then
	echo "setup: go: not found; install Go 1.26 or newer (https://go.dev/dl) and put it on PATH" >&2
	exit 1
fi
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ]; then
	echo "setup: these packages are missing: ${missing[*]}" >&2
	echo "hint: sudo deploy/setup.sh" >&2
	exit 77
fi
echo "setup: installing with apt: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The packages' own services are not wanted: a policy that says no keeps them
# from starting while they are installed.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
	trap 'rm -f "$log" "$policy"' EXIT
fi
if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
	tail -n 30 "$log" >&2
	echo "setup: apt could not install them; what it said is above" >&2
	exit 1
fi
