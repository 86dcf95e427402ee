#!/usr/bin/env bash
# Runs a stop-watch from a fresh Debian to names of one's own that are served: the machine's part of the first five minutes.
# Needs root, mmdebstrap and systemd-nspawn.
#
#   deploy/e2e/newcomer.sh FILE.deb
#
# Exits with 1 if it takes longer than five minutes, or if a name is not answered by its own backend.
set -euo pipefail

main() {
    local deb=${1:?the .deb to install} name
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    make_root
    boot
    start_backends shop.example.com:9443 mail.example.com:9444
    cp "$deb" "$root/snigate.deb"

    began=${EPOCHREALTIME/[.,]/}
    in_machine dpkg -i /snigate.deb >"$work/said" 2>&1 || { cat "$work/said"; return 1; }
    lap "dpkg -i snigate.deb: installed and running"
    write_routing_file
    in_machine snigate check /etc/snigate/config.yaml >"$work/said" 2>&1 || { cat "$work/said"; return 1; }
    lap "/etc/snigate/config.yaml: written and checked"
    for name in shop.example.com mail.example.com; do
        within 30 answers "$name" >"$work/said" 2>&1 || { tail -n 3 "$work/said"; return 1; }
        lap "$name: answered by its own backend, with its own certificate"
    done
    ((${EPOCHREALTIME/[.,]/} - began < 300 * 1000000))
}

# As a newcomer would: with the command that writes the file, if this version has it.
write_routing_file() {
    if in_machine snigate init --help >/dev/null 2>&1; then
        in_machine sh -c 'cd /tmp && snigate init shop.example.com=127.0.0.1:9443 mail.example.com=127.0.0.1:9444 >config.yaml'
        in_machine cp /tmp/config.yaml /etc/snigate/config.yaml
        return
    fi
    cat >"$root/etc/snigate/config.yaml" <<END
listeners:
  - { name: https, bind: "[::]:443" }
routes:
  - { sni: shop.example.com, pool: shop }
  - { sni: mail.example.com, pool: mail }
pools:
  shop: { backends: ["127.0.0.1:9443"], health_check: {} }
  mail: { backends: ["127.0.0.1:9444"], health_check: {} }
END
}

lap() { # WHAT
    local took=$(((${EPOCHREALTIME/[.,]/} - began) / 10000))
    printf '%4d.%02d s  %s\n' "$((took / 100))" "$((took % 100))" "$1"
}

clean_up() {
    local status=$?
    set +e
    power_off
    rm -rf "$work"
    exit "$status"
}

repository=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d /tmp/snigate-newcomer.XXXXXX)
# shellcheck source=deploy/e2e/lib/checks.sh
source "$repository/deploy/e2e/lib/checks.sh"
# shellcheck source=deploy/e2e/lib/machine.sh
source "$repository/deploy/e2e/lib/machine.sh"

main "$@"
