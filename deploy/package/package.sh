#!/usr/bin/env bash
# Makes the packages of a binary that deploy/package/build.sh has built: a .deb, a .rpm and a .tar.gz; and with cargo-cyclonedx
# installed, its bill of materials (SBOM), a .cdx.json.
#
#   deploy/package/package.sh [TARGET [DIRECTORY]]
#
# The default target is that of this machine, the default directory target/packages. Needs cargo-deb and cargo-generate-rpm.
# SNIGATE names a program that runs here and prints the man pages and completions; by default the binary itself.
#
# The same binary gives the same packages: all times are SOURCE_DATE_EPOCH, by default that of the commit.
set -euo pipefail
cd "$(dirname "$0")/../.."

main() {
    local target=${1:-$(uname -m)-unknown-linux-musl} binary
    packages=${2:-$output/packages}
    binary=$output/$target/release/snigate
    snigate=${SNIGATE:-$binary}
    [[ -x $binary ]] || fail "$binary is missing: deploy/package/build.sh $target"
    for tool in cargo-deb cargo-generate-rpm; do
        command -v $tool >/dev/null || fail "$tool is missing: cargo install $tool --locked"
    done
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
    export SOURCE_DATE_EPOCH
    version=$("$snigate" --version)
    version=${version#snigate }

    mkdir -p "$packages"
    prepare
    cargo deb --quiet --no-build --no-strip --target "$target" --output "$packages/"
    cargo generate-rpm --target "$target" --source-date "$SOURCE_DATE_EPOCH" --payload-compress gzip --output "$packages/"
    archive "$target" "$binary"
    if command -v cargo-cyclonedx >/dev/null; then bill_of_materials "$target"; fi
}

# What Cargo.toml lists as assets in target/package, which are made from the program and the sources.
prepare() {
    local commands command
    rm -rf "$made"
    mkdir -p "$made"/{man,completions,systemd,doc}
    commands=$("$snigate" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z][a-z-]*\).*/\1/p' | grep -vx help)
    [[ -n $commands ]] || fail "$snigate --help lists no commands"
    "$snigate" man >"$made/man/snigate.1"
    for command in $commands; do
        "$snigate" man "$command" >"$made/man/snigate-$command.1"
    done
    "$snigate" completions bash >"$made/completions/snigate"
    "$snigate" completions zsh >"$made/completions/_snigate"
    "$snigate" completions fish >"$made/completions/snigate.fish"
    # Packages own /usr (/usr/local is the administrator's), and come with a user of their own.
    cp -r deploy/systemd/snigate.service.d deploy/systemd/snigate.service "$made/systemd/"
    sed -i 's#/usr/local/bin/snigate#/usr/bin/snigate#; s/^DynamicUser=yes/User=snigate/; /^# Install as/,/^$/d' \
        "$made/systemd/snigate.service" "$made"/systemd/snigate.service.d/*
    cat >"$made/doc/changelog.Debian" <<END
snigate ($version-1) unstable; urgency=medium

  * Version $version. /usr/share/doc/snigate/changelog.gz has the changes.

 -- $maintainer  $(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
END
    cp CHANGELOG.md "$made/doc/changelog"
    gzip -9n "$made"/man/*.1 "$made"/doc/changelog*
}

archive() { # TARGET BINARY
    local name=snigate-$version-$1
    mkdir "$made/$name"
    cp "$2" README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT config.yaml config.schema.json "$made/$name/"
    cp -r "$made/man" "$made/completions" deploy/systemd "$made/$name/"
    tar -C "$made" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
        -cf - "$name" | gzip -9n >"$packages/$name.tar.gz"
    echo "$packages/$name.tar.gz"
}

# Every crate that is linked, or that helped to build, with its license and its checksum.
bill_of_materials() { # TARGET
    local name=snigate-$version-$1.cdx
    cargo cyclonedx --quiet --format json --target "$1" --override-filename "$name"
    # The folder is nobody's business, and would make two builds differ.
    sed "s#path+file://$PWD#path+file:///snigate#g" "$name.json" >"$packages/$name.json"
    rm "$name.json"
    echo "$packages/$name.json"
}

fail() {
    echo "$*" >&2
    exit 2
}

output=${CARGO_TARGET_DIR:-$PWD/target}
# Where the assets of Cargo.toml point.
made=target/package
maintainer="The snigate authors <snigate@users.noreply.github.com>"

main "$@"
