#!/usr/bin/env bash
# Two snigates that stand in for each other, in network namespaces: behind addresses that keepalived moves (VRRP), behind a
# router that spreads over both (ECMP), and behind a load balancer that keeps its connections (NLB, here nftables). Checks
# what docs/high-availability.md says. Needs root.
#
#   deploy/e2e/pair.sh             # with what is installed, and target/debug/snigate or $SNIGATE
#   deploy/e2e/pair.sh --install   # installs Debian packages first
#
# Clients -- router -- { a, b, backends }, all of them namespaces, which go away on exit.

set -euo pipefail

main() {
    [[ ${1-} != --install ]] || install_tools
    prepare
    start a
    start b
    check_source_hash
    check_vrrp
    check_ecmp
    check_nlb
    echo "$passed passed, $failed failed"
    ((failed == 0))
}

# ---- what is checked

check_source_hash() {
    local through_a through_b
    through_a=$(clients through 10.77.0.1 40)
    through_b=$(clients through 10.77.0.2 40)
    check "each of 40 clients reaches the same backend through either instance" is "$through_a" "$through_b"
    check "and not all of them the same" test "$(distinct "$through_a")" -gt 1
}

check_vrrp() {
    echo "== VRRP: keepalived, two addresses"
    start_keepalived a 150 100
    start_keepalived b 100 150
    check "each instance has its address within 15 s" within 15 both_have_one
    check "connections through both addresses" is "$(clients open "$vip_one" 10) $(clients open "$vip_two" 10)" \
        "opened 10 of 10 opened 10 of 10"
    check "each address leads to its instance" is "$(active a) $(active b)" "10 10"

    kill -KILL "${pids[a]}"
    check "when one is killed, the other has both addresses within 10 s" within 10 has_both b
    check "the connections of the other live on" is "$(clients alive)" "alive 10 of 20"
    check "new ones are served through both addresses" is \
        "$(distinct_errors "$(clients through "$vip_one" 20) $(clients through "$vip_two" 20)")" 0
    clients close >/dev/null

    start a
    check "when it is back, it has its address again within 20 s" within 20 both_have_one
    clients open "$vip_two" 10 >/dev/null
    kill -TERM "${pids[a]}"
    local errors=0
    # Through the whole handover, one after the other: one of them may be under way while the address moves.
    until has_both b; do
        errors=$((errors + $(distinct_errors "$(clients through "$vip_one" 2)")))
    done
    check "a planned stop ends at most the connection that is being opened" test "$errors" -le 1
    check "and the connections of the other live on" is "$(clients alive)" "alive 10 of 10"
    clients close >/dev/null
    # The connections whose address has gone never end on their own.
    kill -KILL "${pids[a]}"
    stop_keepalived
}

check_ecmp() {
    echo "== ECMP: a router spreads over both"
    start a
    local on_b
    for instance in a b; do ip -n "$prefix-$instance" addr add "$vip_ecmp/32" dev lo; done
    in_net r sysctl -qw net.ipv4.fib_multipath_hash_policy=1
    ip -n "$prefix-r" route add "$vip_ecmp/32" nexthop via 10.77.0.1 nexthop via 10.77.0.2
    check "40 connections" is "$(clients open "$vip_ecmp" 40)" "opened 40 of 40"
    on_b=$(active b)
    check "over both instances" test "$on_b" -gt 0 -a "$on_b" -lt 40
    check "each client has the backend that it has without the router" is \
        "$(clients through "$vip_ecmp" 40)" "$(clients through 10.77.0.2 40)"

    kill -KILL "${pids[a]}"
    # As a routing daemon does when BFD or its health check says so.
    ip -n "$prefix-r" route replace "$vip_ecmp/32" via 10.77.0.2
    check "when one is killed, the connections of the other live on" is "$(clients alive)" "alive $on_b of 40"
    check "and new ones are served" is "$(distinct_errors "$(clients through "$vip_ecmp" 20)")" 0
    clients close >/dev/null

    start a
    ip -n "$prefix-r" route replace "$vip_ecmp/32" nexthop via 10.77.0.1 nexthop via 10.77.0.2
    check "40 more" is "$(clients open "$vip_ecmp" 40)" "opened 40 of 40"
    on_b=$((40 - $(active a)))
    kill -TERM "${pids[a]}"
    check "one that is stopped is not ready within 2 s" within 2 not_ready a
    ip -n "$prefix-r" route replace "$vip_ecmp/32" via 10.77.0.2
    check "once its route is gone, the connections of the other live on" is "$(clients alive)" "alive $on_b of 40"
    check "and new ones are served" is "$(distinct_errors "$(clients through "$vip_ecmp" 20)")" 0
    clients close >/dev/null
    # Nobody reaches those that it waits for.
    kill -KILL "${pids[a]}"
}

check_nlb() {
    echo "== NLB: a load balancer that keeps its connections"
    start a
    spread 10.77.0.1 10.77.0.2
    check "40 connections" is "$(clients open "$vip_nlb" 40)" "opened 40 of 40"
    local on_a
    on_a=$(active a)
    check "over both instances" test "$on_a" -gt 0 -a "$on_a" -lt 40
    kill -TERM "${pids[a]}"
    check "one that is stopped is not ready within 2 s" within 2 not_ready a
    spread 10.77.0.2 10.77.0.2
    check "new connections go to the other one" is "$(distinct_errors "$(clients through "$vip_nlb" 20)")" 0
    check "all connections live on, those of the one that drains included" is "$(clients alive)" "alive 40 of 40"
    check "it still has them" is "$(active a)" "$on_a"
    clients close >/dev/null
    check "and ends as soon as they have" within 5 gone "${pids[a]}"
    check "without having cut one" grep -q '"event":"ended".*"cut":0' "$work/a.log"

    start a
    spread 10.77.0.1 10.77.0.2
    check "each client has the backend that it has without the load balancer" is \
        "$(clients through "$vip_nlb" 40)" "$(clients through 10.77.0.2 40)"
    check "40 more" is "$(clients open "$vip_nlb" 40)" "opened 40 of 40"
    on_a=$(active a)
    kill -KILL "${pids[a]}"
    # As the health check of the load balancer does.
    spread 10.77.0.2 10.77.0.2
    check "when one is killed, the connections of the other live on" is "$(clients alive)" "alive $((40 - on_a)) of 40"
    check "and new ones are served" is "$(distinct_errors "$(clients through "$vip_nlb" 20)")" 0
    clients close >/dev/null
}

# ---- how it is checked

clients() { # COMMAND…: its answer
    local answer
    echo "$@" >&"${CLIENTS[1]}"
    read -r answer <&"${CLIENTS[0]}"
    echo "$answer"
}

distinct() { tr ' ' '\n' <<<"$1" | sort -u | wc -l; }

distinct_errors() { tr ' ' '\n' <<<"$1" | grep -vcE '^[0-9.]+$' || true; }

active() { in_net "$1" curl -sS --noproxy '*' http://127.0.0.1:9901/api/v1/status | jq .totals.active; }

not_ready() { [[ $(in_net "$1" curl -s -o /dev/null -w '%{http_code}' --noproxy '*' http://127.0.0.1:9901/readyz) == 503 ]]; }

has() { ip -n "$prefix-$1" -br addr show dev eth0 | grep -qF "$2/"; }

has_both() { has "$1" "$vip_one" && has "$1" "$vip_two"; }

both_have_one() { has a "$vip_one" && ! has a "$vip_two" && has b "$vip_two" && ! has b "$vip_one"; }

gone() { ! kill -0 "$1" 2>/dev/null; }

in_net() { ip netns exec "$prefix-$1" "${@:2}"; }

# ---- what it runs in

start() { # INSTANCE, once the one before it has ended
    [[ -z ${pids[$1]-} ]] || within 20 gone "${pids[$1]}"
    ip netns exec "$prefix-$1" "$snigate" run "$work/config.yaml" >"$work/$1.log" 2>&1 &
    pids[$1]=$!
    # Killed ones are not announced.
    disown "${pids[$1]}"
    within 15 grep -q '"event":"ready"' "$work/$1.log"
}

# The shipped file, with the addresses and the interface of this network.
start_keepalived() { # INSTANCE PRIORITY-ONE PRIORITY-TWO
    sed -e "s#/usr/local/bin/snigate#$snigate#; s/script_user nobody/script_user root/" \
        -e "s#192.0.2.10/24#$vip_one/24#; s#192.0.2.20/24#$vip_two/24#" \
        -e "s/priority 150/priority $2/; t; s/priority 100/priority $3/" \
        "$repository/deploy/keepalived/keepalived.conf" >"$work/keepalived-$1.conf"
    in_net "$1" keepalived --dont-fork --log-console --vrrp --use-file "$work/keepalived-$1.conf" \
        --pid "$work/keepalived-$1.pid" --vrrp_pid "$work/vrrp-$1.pid" >"$work/keepalived-$1.log" 2>&1 &
}

stop_keepalived() {
    local instance
    for instance in a b; do
        kill "$(cat "$work/keepalived-$instance.pid")"
        within 5 test ! -e "$work/keepalived-$instance.pid"
    done
}

# By the hash of the client's address and port, as such load balancers do; connections that are known keep their instance.
spread() { # INSTANCE INSTANCE
    in_net r nft -f - <<END
table ip nlb
delete table ip nlb
table ip nlb {
    chain in {
        type nat hook prerouting priority dstnat
        ip daddr $vip_nlb tcp dport 443 dnat to jhash ip saddr . tcp sport mod 2 map { 0 : $1, 1 : $2 }
    }
}
END
}

prepare() {
    local tool name number
    for tool in ip nft keepalived python3 openssl curl jq; do
        command -v "$tool" >/dev/null || { echo "$tool is missing: run with --install" >&2; exit 2; }
    done
    [[ -x $snigate ]] || { echo "$snigate is missing: run cargo build, or set SNIGATE" >&2; exit 2; }
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    sed -e 's/"\*.example.com"/"*.example.test"/' -e 's/10\.0\.0\.1\([123]\):443/10.77.0.10\1:443/g' \
        "$repository/deploy/keepalived/config.yaml" >"$work/config.yaml"

    for name in r c a b s; do
        ip netns add "$prefix-$name"
        ip -n "$prefix-$name" link set lo up
    done
    ip -n "$prefix-r" link add bridge type bridge
    ip -n "$prefix-r" addr add 10.77.0.254/24 dev bridge
    ip -n "$prefix-r" link set bridge up
    in_net r sysctl -qw net.ipv4.ip_forward=1
    for name in a b s; do
        ip -n "$prefix-r" link add "to-$name" type veth peer name eth0 netns "$prefix-$name"
        ip -n "$prefix-r" link set "to-$name" master bridge up
        ip -n "$prefix-$name" link set eth0 up
    done
    ip -n "$prefix-a" addr add 10.77.0.1/24 dev eth0
    ip -n "$prefix-b" addr add 10.77.0.2/24 dev eth0
    for number in 1 2 3; do ip -n "$prefix-s" addr add "10.77.0.10$number/24" dev eth0; done
    ip -n "$prefix-r" link add to-c type veth peer name eth0 netns "$prefix-c"
    ip -n "$prefix-r" addr add 10.77.9.1/24 dev to-c
    ip -n "$prefix-r" link set to-c up
    ip -n "$prefix-c" link set eth0 up
    for number in {10..60}; do ip -n "$prefix-c" addr add "10.77.9.$number/24" dev eth0; done
    ip -n "$prefix-c" route add default via 10.77.9.1
    for name in a b; do ip -n "$prefix-$name" route add default via 10.77.0.254; done

    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=app.example.test \
        -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
    in_net s python3 "$repository/deploy/e2e/pair.py" backend "$work/cert.pem" "$work/key.pem" \
        10.77.0.101 10.77.0.102 10.77.0.103 &
    for number in 1 2 3; do within 10 in_net a bash -c ": </dev/tcp/10.77.0.10$number/443" 2>/dev/null; done
    coproc CLIENTS { in_net c python3 "$repository/deploy/e2e/pair.py" clients 10.77.9; }
}

clean_up() {
    local status=$? name
    set +e
    if ((status != 0)); then
        echo "== $passed passed, $failed failed so far"
        tail -n 15 "$work"/keepalived-?.log 2>/dev/null
        grep -hv '"event":"connection"' "$work"/?.log 2>/dev/null | tail -n 20
    fi
    # Everything that runs in these namespaces was started here.
    for name in r c a b s; do
        ip netns pids "$prefix-$name" 2>/dev/null | xargs -r kill -KILL 2>/dev/null
        ip netns del "$prefix-$name" 2>/dev/null
    done
    rm -rf "$work"
    exit "$status"
}

install_tools() {
    apt-get -q update
    DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends \
        keepalived nftables iproute2 python3 openssl curl jq
}

repository=$(cd "$(dirname "$0")/../.." && pwd)
snigate=$(realpath -m "${SNIGATE-$repository/target/debug/snigate}")
work=$(mktemp -d /tmp/snigate-pair.XXXXXX)
prefix=snigate-pair-$$
vip_one=10.77.0.10
vip_two=10.77.0.20
vip_ecmp=10.77.5.10
vip_nlb=10.77.5.20
declare -A pids=()
# shellcheck source=deploy/e2e/lib/checks.sh
source "$repository/deploy/e2e/lib/checks.sh"

main "$@"
