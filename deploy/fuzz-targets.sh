#!/bin/sh
# Every fuzz target as ./package:FuzzName.
set -eu
cd "$(dirname "$0")/.."
git ls-files '*_test.go' | xargs grep -Ho '^func Fuzz[A-Za-z0-9_]*' | while IFS=: read -r file fn; do
	echo "./$(dirname "$file"):${fn#func }"
done | sort
