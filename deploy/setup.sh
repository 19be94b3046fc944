#!/bin/bash
# Installs what Liege needs and this machine lacks, through apt, and says what
# it does. Nothing to install: says nothing.
#
#   deploy/setup.sh run     to build and run it
#   deploy/setup.sh test    to run its tests and benchmarks too
set -euo pipefail

# command or file → Debian package
need=(
	"gcc:gcc" "/usr/lib/$(uname -m)-linux-gnu/libc.a:libc6-dev" "make:make" "git:git"
	"/usr/bin/python3:python3"
)
if [ "${1:-run}" = test ]; then
	need+=(
		"curl:curl" "jq:jq" "shellcheck:shellcheck" "wrk:wrk" "nginx:nginx-light"
		"/usr/bin/uwsgi:uwsgi-core" "/usr/lib/uwsgi/plugins/python3_plugin.so:uwsgi-plugin-python3"
		"/usr/share/doc/uwsgi-plugins-all:uwsgi-plugins-all" "lua:lua5.4" "/usr/bin/ruby:ruby" "/usr/share/doc/ruby-rack:ruby-rack" "/usr/bin/bundle:bundler"
		"/usr/bin/perl:perl" "/usr/share/perl5/Plack/Util.pm:libplack-perl" "/usr/bin/puma:puma" "php-cgi:php-cgi" "/usr/share/doc/php-fpm:php-fpm" "/usr/share/wordpress/wp-settings.php:wordpress" "/usr/share/wordpress/wp-content/themes/twentytwentythree:wordpress-theme-twentytwentythree"
		"/usr/sbin/mariadbd:mariadb-server-core" "mariadb:mariadb-client-core" "node:nodejs" "fcgiwrap:fcgiwrap"
		"/usr/lib/python3/dist-packages/flask/__init__.py:python3-flask"
		"/usr/lib/python3/dist-packages/django/__init__.py:python3-django"
		"gunicorn:gunicorn" "uvicorn:uvicorn"
		"/usr/lib/python3/dist-packages/gevent/__init__.py:python3-gevent"
		"/usr/lib/python3/dist-packages/starlette/__init__.py:python3-starlette"
		"/usr/lib/python3/dist-packages/paste/deploy/__init__.py:python3-pastedeploy"
		"/usr/lib/python3/dist-packages/grpc/__init__.py:python3-grpcio"
		"qemu-system-x86_64:qemu-system-x86" "mmdebstrap:mmdebstrap" "mke2fs:e2fsprogs" "mkfs.xfs:xfsprogs"
		"setfiles:policycoreutils" "secilc:secilc" "sesearch:setools" "rpm:rpm"
		"/var/lib/selinux/default/active/modules/100/base/cil:selinux-policy-default"
	)
fi

missing=()
for n in "${need[@]}"; do
	what=${n%%:*} package=${n#*:}
	case $what in
	/*) [ -e "$what" ] || missing+=("$package") ;;
	*) PATH=$PATH:/usr/sbin command -v "$what" >/dev/null || missing+=("$package") ;;
	esac
done
if ! command -v go >/dev/null; then
	echo "setup: go: not found; install Go 1.26 or newer (https://go.dev/dl) and put it on PATH" >&2
	exit 1
fi
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ]; then
	echo "setup: these packages are missing: ${missing[*]}" >&2
	echo "hint: sudo deploy/setup.sh ${1:-run}" >&2
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
if ! { apt-get update && apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
	tail -n 30 "$log" >&2
	echo "setup: apt could not install them; what it said is above" >&2
	exit 1
fi
