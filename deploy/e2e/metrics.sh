#!/usr/bin/env bash
# Runs each expression of docs/metrics.md ("Ten questions") and of deploy/grafana in a real Prometheus that has scraped
# `snigate demo` under load. Each must have a number as its result: an expression with a wrong metric or label has none.
#
#   deploy/e2e/metrics.sh             # with target/release/snigate, or the program in $SNIGATE
#
# Needs prometheus, promtool and curl. Everything is on loopback and goes away on exit.

set -euo pipefail

main() {
    trap clean_up EXIT
    start_demo
    start_prometheus
    load 12
    local expression count=0
    while IFS= read -r expression; do
        count=$((count + 1))
        has_result "$expression"
    done < <(documented && drawn)
    echo "$passed passed, $failed failed"
    ((failed == 0 && count >= 30))
}

documented() {
    awk '/^## /{of_them = /Ten questions/} /^```/{code = /promql/; next} of_them && code' docs/metrics.md
}

# A variable stands for all of its values.
drawn() {
    python3 - deploy/grafana/snigate.json <<'END'
import json, re, sys
for panel in json.load(open(sys.argv[1]))["panels"]:
    for target in panel.get("targets", []):
        print(re.sub(r"\$(instance|route|pool|backend)\b", ".*", target["expr"]).replace("$__rate_interval", "1m"))
END
}

has_result() { # EXPRESSION
    local said
    if said=$(promtool query instant "http://$prometheus" "$1" 2>&1) && grep -qv '=> NaN ' <<<"${said:-=> NaN }"; then
        passed=$((passed + 1))
        echo "ok    $1"
    else
        failed=$((failed + 1))
        printf 'FAIL  %s\n      %s\n' "$1" "${said:-no result}"
    fi
}

start_demo() {
    "$snigate" demo --any-port --bind 127.0.0.1:0 >"$work/demo" 2>&1 &
    within 20 grep -q '^Status ' "$work/demo"
    admin=$(sed -n 's#^Status *http://\(.*\)/$#\1#p' "$work/demo")
    port=$(sed -n 's#.*https://one.localhost:\([0-9]*\)/.*#\1#p' "$work/demo")
}

start_prometheus() {
    prometheus=127.0.0.1:$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    cat >"$work/prometheus.yml" <<END
global: { scrape_interval: 1s }
scrape_configs:
  - { job_name: snigate, static_configs: [{ targets: ["$admin"] }] }
END
    (cd "$work" && exec prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/data" \
        --web.listen-address="$prometheus" >"$work/log" 2>&1) &
    within 20 curl -fsS --noproxy '*' -o /dev/null "http://$prometheus/-/ready"
    within 20 scraped
}

scraped() { [[ -n $(promtool query instant "http://$prometheus" 'up{job="snigate"} == 1') ]]; }

load() { # SECONDS
    local until=$((SECONDS + $1)) name
    while ((SECONDS < until)); do
        # The last one has no route.
        for name in one two a.two nobody; do
            curl -ks --noproxy '*' -o /dev/null --connect-to "::127.0.0.1:$port" "https://$name.localhost:$port/" || true
        done
    done
}

within() { # SECONDS COMMAND…: again and again until it succeeds
    local until=$((SECONDS + $1))
    shift
    until "$@" 2>/dev/null; do
        ((SECONDS < until)) || { echo "never: $*" >&2; tail -n 5 "$work"/{demo,log} >&2; return 1; }
        sleep 0.1
    done
}

clean_up() {
    local job
    for job in $(jobs -p); do
        kill "$job" 2>/dev/null || true
        wait "$job" 2>/dev/null || true
    done
    rm -rf "$work"
}

cd "$(dirname "$0")/../.."
snigate=${SNIGATE-target/release/snigate}
PATH=$PATH:${XDG_CACHE_HOME:-$HOME/.cache}/snigate-ci
work=$(mktemp -d)
admin='' port='' prometheus=''
passed=0
failed=0

main
