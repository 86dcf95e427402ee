#!/usr/bin/env bash
# Builds the static binary that the packages, the image and the releases carry: the same bytes in any folder.
#
#   deploy/package/build.sh                                 # for this machine's processor
#   deploy/package/build.sh aarch64-unknown-linux-musl      # for another one, with cargo-zigbuild and ziglang from PyPI
#
# Needs musl-gcc (Debian: musl-tools) and the target (rustup target add TARGET). With cargo-auditable installed, the binary
# holds the list of its crates, which `cargo audit bin` and other scanners read; SNIGATE_AUDITABLE=require makes that an error
# if it is missing. SNIGATE_REVISION, by default the commit, ends up in `snigate_build_info`. SNIGATE_FEATURES are the Cargo
# features, by default ech,mimalloc.
#
# The binary is in target/TARGET/release (or CARGO_TARGET_DIR); the last line printed is its path.
set -euo pipefail
cd "$(dirname "$0")/../.."

main() {
    local here target
    here=$(uname -m)-unknown-linux-musl
    target=${1:-$here}
    [[ -d $(rustc --print sysroot)/lib/rustlib/$target ]] || fail "the Rust target is missing: rustup target add $target"

    local verbs=()
    if command -v cargo-auditable >/dev/null; then
        verbs+=(auditable)
    elif [[ ${SNIGATE_AUDITABLE-} == require ]]; then
        fail "cargo-auditable is missing: cargo install cargo-auditable --locked"
    fi
    if [[ $target == "$here" ]]; then
        command -v musl-gcc >/dev/null || fail "musl-gcc is missing: apt-get install musl-tools"
        verbs+=(build)
    else
        command -v cargo-zigbuild >/dev/null || fail "cargo-zigbuild is missing: pip install cargo-zigbuild ziglang"
        verbs+=(zigbuild)
        # The strip of this machine does not know the other processor.
        export CARGO_PROFILE_RELEASE_STRIP=symbols
    fi

    forget_this_folder "${target//-/_}" "$target"
    # The C compiler puts it in place of `__TIME__`, which mimalloc has.
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
    export SOURCE_DATE_EPOCH
    off_the_path_small "$target"
    SNIGATE_REVISION=${SNIGATE_REVISION-$(git rev-parse HEAD 2>/dev/null || echo unknown)} \
        cargo "${verbs[@]}" --locked --release --target "$target" --bin snigate "${features[@]}" "${settings[@]}"
    # The names of functions, an eighth of its size, are for profilers of one's own build. The list of crates stays.
    if [[ $target == "$here" ]]; then
        strip --strip-all "$output/$target/release/snigate"
    fi
    echo "$output/$target/release/snigate"
}

# No path of this machine gets into the binary, neither through Rust (panics name their file) nor through C (`__FILE__`).
forget_this_folder() { # TARGET_WITH_UNDERSCORES TARGET
    local crates rust=() c=() from
    crates=${CARGO_HOME:-$HOME/.cargo}/registry/src
    # The last of those that match wins.
    rust+=("--remap-path-prefix=$PWD=/snigate" "--remap-path-prefix=$output=/snigate/target")
    c+=("-ffile-prefix-map=$PWD=/snigate" "-ffile-prefix-map=$output=/snigate/target")
    cargo fetch --quiet --locked --target "$2"
    for from in "$crates"/*/; do
        rust+=("--remap-path-prefix=${from%/}=/crates")
        c+=("-ffile-prefix-map=${from%/}=/crates")
    done
    if [[ $2 == "$(uname -m)-unknown-linux-musl" ]]; then
        make_it_smaller
    fi
    CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && echo "${rust[*]}")
    export CARGO_ENCODED_RUSTFLAGS "CFLAGS_$1=${c[*]}" CARGO_INCREMENTAL=0
}

# A tenth of the image: the linker of the Rust toolchain folds equal functions into one and packs the relocations, and
# AWS-LC leaves out AES-GCM for AVX-512, which pays for bulk data, and snigate encrypts none.
make_it_smaller() {
    local lld
    lld=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin/gcc-ld
    # A toolchain that did not come from rustup may be without it.
    if [[ -x $lld/ld.lld ]]; then
        rust+=("-Clink-arg=-B$lld" -Clink-arg=-fuse-ld=lld "-Clink-arg=-Wl,--icf=all,--pack-dyn-relocs=relr")
    fi
    # No panic passes through C.
    c+=(-DMY_ASSEMBLER_IS_TOO_OLD_FOR_512AVX -fno-asynchronous-unwind-tables)
}

# Crates that no connection passes through are compiled for size: those of the admin address, commands, files, DNS.
off_the_path_small() { # TARGET
    local name version on_the_path="
        arc-swap atomic-waker aws-lc-rs aws-lc-sys bytes errno fastrand foldhash futures-core futures-task hashbrown httparse
        ipnet itoa libc libmimalloc-sys linux-raw-sys lock_api memchr mimalloc mio nom parking_lot parking_lot_core
        pin-project-lite portable-atomic rusticata-macros rustix rustls scopeguard sharded-slab siphasher slab smallvec
        snigate socket2 subtle thread_local tls-parser tokio tracing tracing-core tracing-subscriber zeroize"
    while read -r name version _; do
        [[ " ${on_the_path//$'\n'/ } " == *" $name "* ]] ||
            settings+=(--config "profile.release.package.\"$name@${version#v}\".opt-level=\"z\"")
    done < <(cargo tree --locked "${features[@]}" --edges normal,no-proc-macro --target "$1" --prefix none --format '{p}' | sort -u)
}

fail() {
    echo "$*" >&2
    exit 2
}

output=${CARGO_TARGET_DIR:-$PWD/target}
# Without Gateways of Kubernetes, which would make it half as large again.
features=(--no-default-features --features "${SNIGATE_FEATURES-ech,mimalloc}")
settings=()

main "$@"
