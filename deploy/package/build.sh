#!/bin/bash
# Builds a package from the programs in bin/, for "make deb" and "make rpm":
# deploy/package/build.sh deb|rpm DESCRIBED-VERSION NFPM DIRECTORY
set -euo pipefail
cd "$(dirname "$0")/../.."
format=$1 described=$2 nfpm=$3 out=$4

export STAGE=bin/package
mkdir -p $STAGE

for sh in bash zsh fish; do bin/liege completion $sh >$STAGE/liege.$sh; done

# The licences of all that is linked into the programs.
licences() {
	echo "The Go standard library"
	cat "$(go env GOROOT)/LICENSE"
	go list -deps -tags osusergo,netgo -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/... |
		sort -u | while read -r path version dir; do
		printf '\n----\n\n%s %s\n\n' "$path" "$version"
		cat "$dir"/LICEN[SC]E* "$dir"/COPYING* "$dir"/NOTICE* 2>/dev/null || true
	done
}
licences | gzip -9n >$STAGE/third-party.gz

# The same commit gives the same package.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
PKG_VERSION=$(deploy/package/version.sh "$described" "$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S)")
PKG_ARCH=$(go env GOARCH)
PKG_MAINTAINER=${PKG_MAINTAINER:-The Liege maintainers <maintainers@liege.invalid>}
# The oldest C library that has every symbol the Emperor uses.
GLIBC=$(objdump -T bin/liege-emperor | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1)
GLIBC=${GLIBC#GLIBC_}
export SOURCE_DATE_EPOCH PKG_VERSION PKG_ARCH PKG_MAINTAINER GLIBC

printf 'liege (%s) unstable; urgency=medium\n\n  * Built from %s.\n\n -- %s  %s\n' \
	"$PKG_VERSION" "$described" "$PKG_MAINTAINER" "$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >$STAGE/changelog.gz

case $format in
deb) target=$out/liege_${PKG_VERSION}_$PKG_ARCH.deb ;;
rpm) target=$out/liege-$PKG_VERSION.$(uname -m).rpm ;;
*) echo "build.sh: $format: neither deb nor rpm" >&2; exit 64 ;;
esac
# One of a kind: "apt install ./bin/liege_*.deb" would find two.
rm -f "$out"/liege[_-]*."$format"
if ! said=$("$nfpm" package --config deploy/package/nfpm.yaml --packager "$format" --target "$target" 2>&1); then
	echo "$said" >&2
	exit 1
fi
echo "$target"
