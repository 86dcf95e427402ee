#!/usr/bin/env bash
# Runs each expression of docs/metrics.md ("Ten questions") and of deploy/grafana in a real Prometheus that has scraped
# `snigate demo` under load. Each must have a number as its result: an expression with a wrong metric or label has none.
# Prometheus asks for OpenMetrics, and must have kept exemplars; the parser of prometheus_client, if Python has it, must read
# the same.
#
#   deploy/e2e/metrics.sh             # with target/release/snigate, or the program in $SNIGATE
#
# Needs prometheus, promtool, curl and openssl. Everything is on loopback and goes away on exit.

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
    has_exemplars
    is_open_metrics
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

has_exemplars() {
    local query='query=snigate_connection_duration_seconds_bucket&start=0&end=99999999999' found id accepted
    found=$(curl -fsS --noproxy '*' "http://$prometheus/api/v1/query_exemplars?$query")
    id=$(grep -o '"connection_id":"[0-9a-f]*"' <<<"$found" | tail -n 1 | cut -d '"' -f 4)
    accepted=$(curl -fsS --noproxy '*' "http://$admin/metrics" | awk '/^snigate_connections_accepted_total/ {print $2}')
    # Connections are numbered from 1.
    verdict "the exemplars are connections" "$found" test "$((16#${id:-0}))" -ge 1 -a "$((16#${id:-0}))" -le "$accepted"
}

is_open_metrics() {
    local accept='Accept: application/openmetrics-text; version=1.0.0'
    curl -fsS --noproxy '*' -D "$work/head" -o "$work/text" -H "$accept" "http://$admin/metrics"
    verdict "the media type" "$(cat "$work/head")" grep -qi '^content-type: application/openmetrics-text; version=1.0.0' "$work/head"
    local python=${SNIGATE_PYTHON-python3}
    if "$python" -c 'import prometheus_client' 2>/dev/null; then
        verdict "prometheus_client reads it" "$work/text" "$python" -c 'import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as families
samples = [sample for family in families(open(sys.argv[1]).read()) for sample in family.samples]
assert len(samples) > 300 and any(sample.exemplar for sample in samples)' "$work/text"
    else
        echo "skipped: prometheus_client (pip install prometheus_client)"
    fi
}

verdict() { # WHAT OTHERWISE COMMAND…
    local what=$1 otherwise=$2
    shift 2
    if "$@"; then
        passed=$((passed + 1))
        echo "ok    $what"
    else
        failed=$((failed + 1))
        printf 'FAIL  %s\n      %s\n' "$what" "$otherwise"
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
        --enable-feature=exemplar-storage --web.listen-address="$prometheus" >"$work/log" 2>&1) &
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
        # A cipher that the backend does not have: it answers with an alert.
        openssl s_client -connect "127.0.0.1:$port" -servername one.localhost -tls1_2 -cipher AES256-SHA </dev/null \
            >"$work/refused" 2>&1 || true
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
