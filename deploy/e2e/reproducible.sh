#!/usr/bin/env bash
# Builds the commit that is checked out twice, in two folders with other names and other folders for what is built, and compares
# the binaries and the packages byte for byte. Takes two release builds, so it is not part of `.ci/run`; the release workflow
# does the same.
#
#   deploy/e2e/reproducible.sh
set -euo pipefail

main() {
    trap 'rm -rf "$work"' EXIT
    build one "$work/one/target"
    build another/folder "$work/elsewhere"
    local file
    for file in "$work/one/packages"/*; do
        cmp "$file" "$work/another/folder/packages/${file##*/}"
    done
    cmp "$work/one/target/$target/release/snigate" "$work/elsewhere/$target/release/snigate"
    (cd "$work/one" && sha256sum "target/$target/release/snigate" packages/*)
    echo "the same bytes twice"
}

build() { # FOLDER TARGET_FOLDER
    git clone --quiet "$repository" "$work/$1"
    CARGO_TARGET_DIR=$2 "$work/$1/deploy/package/build.sh" "$target"
    CARGO_TARGET_DIR=$2 "$work/$1/deploy/package/package.sh" "$target" "$work/$1/packages"
}

repository=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d /tmp/snigate-reproducible.XXXXXX)
target=$(uname -m)-unknown-linux-musl

main "$@"
