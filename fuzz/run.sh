#!/usr/bin/env bash
# Fuzzes every target for SECONDS each (60 if not said), and fails on any finding.
#
#   fuzz/run.sh [SECONDS [TARGET...]]
#
# Needs `cargo install cargo-fuzz --locked`; the stable toolchain will do. Beside the seeds in fuzz/seeds and tests/data,
# the captured hellos in ../shared/corpus are read where they are, when they are there (SNIGATE_CORPUS names another
# place). What is learnt stays in fuzz/corpus; a finding lies in fuzz/artifacts, and is run again with
# `RUSTC_BOOTSTRAP=1 cargo fuzz run TARGET FILE`. FUZZ_FLAGS adds flags of libFuzzer's own.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
targets=("${@:2}")
[[ ${#targets[@]} -gt 0 ]] || targets=(hello hello_vs_rustls ech proxy_header config route)
captured=${SNIGATE_CORPUS:-../shared/corpus}/hellos
read -ra flags <<<"${FUZZ_FLAGS:-}"
# The address sanitizer is an option of nightly alone, unless the compiler is told otherwise.
export RUSTC_BOOTSTRAP=1

fuzz() {
    local target=$1 seeds=() own=()
    case $target in
    hello | hello_vs_rustls)
        seeds=(tests/data/hellos)
        [[ ! -d $captured ]] || seeds+=("$captured")
        # A length that lies says up to 16 MiB: it must allocate nothing.
        own=(-max_len=4096 -malloc_limit_mb=12)
        ;;
    ech)
        seeds=(fuzz/seeds/ech)
        own=(-max_len=4096 -malloc_limit_mb=12)
        ;;
    proxy_header)
        seeds=(fuzz/seeds/proxy_header)
        own=(-max_len=1024 -malloc_limit_mb=12)
        ;;
    config)
        seeds=(fuzz/seeds/config tests/data/config)
        own=(-max_len=4096 -malloc_limit_mb=64 -dict=fuzz/config.dict)
        ;;
    route)
        own=(-max_len=2048)
        ;;
    esac
    mkdir -p "fuzz/corpus/$target"
    cargo fuzz run "$target" "fuzz/corpus/$target" "${seeds[@]}" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 "${own[@]}" "${flags[@]}"
}

failed=()
for target in "${targets[@]}"; do
    echo "== $target: $seconds s"
    fuzz "$target" || failed+=("$target")
done
if [[ ${#failed[@]} -gt 0 ]]; then
    echo "findings in: ${failed[*]}" >&2
    exit 1
fi
