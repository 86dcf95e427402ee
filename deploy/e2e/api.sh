#!/usr/bin/env bash
# Tests the admin API against its own description, /api/v1/openapi.json, with schemathesis: every documented request and
# many that are wrong; what is answered must be what is documented. The stream of events has no end, so that curl reads
# its beginning instead.
#
#   deploy/e2e/api.sh             # with target/release/snigate, or the program in $SNIGATE
#   deploy/e2e/api.sh --install   # installs schemathesis first, from PyPI
#
# Needs curl and python3. Everything is on loopback and goes away on exit.

set -euo pipefail

main() {
    [[ ${1-} != --install ]] || install_tools
    command -v schemathesis >/dev/null || { echo "schemathesis is not installed: $0 --install" >&2; exit 2; }
    trap clean_up EXIT
    start
    echo "an example of each request, then wrong ones, at http://$admin"
    # In a directory of its own, since it leaves its findings where it runs.
    cd "$work"
    schemathesis --config-file "$root/deploy/e2e/schemathesis.toml" run "http://$admin/api/v1/openapi.json" --checks all --phases examples,coverage,fuzzing \
        --max-examples 25 --seed 1 --max-time 60 --request-timeout 10 --suppress-health-check all --warnings off \
        --exclude-path /api/v1/events --header "Authorization: Bearer $token"
    events
    alive
}

# The first lines of the stream, with and without an id, as documented.
events() {
    local query head
    for query in '' '?last_event_id=x'; do
        head=$(curl -sN --noproxy '*' --max-time 3 -D- "http://$admin/api/v1/events$query" | tr -d '\r' | head -c 4000 || true)
        grep -qi '^content-type: text/event-stream' <<<"$head"
        grep -q '^event: status' <<<"$head"
    done
    [[ $(curl -s --noproxy '*' -o /dev/null -w '%{http_code}' "http://$admin/api/v1/events?x=1") == 400 ]]
    echo "ok    /api/v1/events"
}

# Nothing that was sent has stopped it, or made it complain about itself.
alive() {
    curl -fsS --noproxy '*' -o /dev/null "http://$admin/healthz"
    ! grep -E '"event":"(panicked|task_panicked)"' "$work/log"
}

start() {
    printf %s "$token" >"$work/token"
    cat >"$work/config.yaml" <<END
listeners:
  - { name: https, bind: "127.0.0.1:0" }
routes:
  - { name: shop, sni: [shop.test, "*.shop.test"], pool: shop }
  - { name: git, sni: git.test, pool: git }
pools:
  shop: { backends: ["127.0.0.1:1", "127.0.0.2:1"] }
  git: { backends: ["127.0.0.3:1"] }
admin: { bind: "127.0.0.1:0", token_file: token }
END
    "$snigate" run "$work/config.yaml" >"$work/log" 2>&1 &
    within 20 grep -q '"event":"ready"' "$work/log"
    admin=$(python3 - "$work/log" <<'END'
import json, sys
for line in open(sys.argv[1]):
    line = json.loads(line)
    if line.get("event") == "admin_listening":
        print(line["address"])
END
    )
}

within() { # SECONDS COMMAND…: again and again until it succeeds
    local until=$((SECONDS + $1))
    shift
    until "$@" 2>/dev/null; do
        ((SECONDS < until)) || { echo "never: $*" >&2; tail -n 5 "$work/log" >&2; return 1; }
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

install_tools() {
    python3 -m venv "$tools"
    "$tools/bin/pip" install -q 'schemathesis>=4.32,<5'
}

cd "$(dirname "$0")/../.."
root=$PWD
snigate=$(realpath "${SNIGATE-target/release/snigate}")
tools=${XDG_CACHE_HOME:-$HOME/.cache}/snigate-api
PATH=$PATH:$tools/bin
work=$(mktemp -d)
token=4f1d0c8e2b
admin=''

main "$@"
