#!/usr/bin/env bash
# Containers that are found by their labels, in a real engine: podman, through its Docker-compatible socket. Checks from a
# client's side what docs/docker.md says, then starts deploy/compose/labels.yaml, and deploy/compose/compose.yaml with
# Prometheus. Needs root, no Docker engine, and no image registry.
#
#   deploy/e2e/labels.sh             # with what is installed, and target/debug/snigate or $SNIGATE
#   deploy/e2e/labels.sh --install   # installs Debian packages, and podman-compose from PyPI, first
#
# The images are stand-ins that carry the public names: programs of this machine and of Debian with the libraries that they
# load. There is none for Grafana, which Debian does not have. Everything lives in one temporary directory and one network
# namespace, and goes away on exit.

set -euo pipefail

main() {
    [[ ${1-} != --install ]] || install_tools
    prepare
    start_engine
    run one 10.89.44.11 --label snigate.sni=one.example.test
    run two 10.89.44.12 --label snigate.sni=two.example.test --label snigate.pool=two
    start_snigate
    check_found
    check_health
    check_removal
    check_wrong_labels
    check_networks
    check_engine_gone
    check_file_wins
    check_compose_labels
    check_compose_monitoring
    echo "$passed passed, $failed failed"
    ((failed == 0))
}

# ---- what is checked

check_found() {
    check "one that ran before is served under its own certificate" answers one
    check "the other one too" answers two
    check "the certificate of one is not that of two" refuses ask one two
    run three 10.89.44.13 --label snigate.sni=three.example.test
    check "one that starts is served within 5 s" within 5 answers three
    check "an unknown name gets the alert unrecognized_name" alerted four 112
    check "the doctor knows the engine" doctored 'version [^,]+, API 1\.'
    check "explain names the container" explained two 'two@docker .*container two'

    in_net podman stop -t 0 one >/dev/null
    check "one that is stopped is refused within 5 s" within 5 is_down one
    check "and the others are not" answers two
    in_net podman start one >/dev/null
    check "started again, it is served within 5 s" within 5 answers one
    in_net podman pause two >/dev/null
    check "one that is paused is refused within 5 s" within 5 is_down two
    in_net podman unpause two >/dev/null
    check "and served again within 5 s" within 5 answers two
}

check_health() {
    run sick 10.89.44.14 --label snigate.sni=sick.example.test --health-interval disable --health-retries 1 \
        --health-cmd 'CMD /usr/bin/openssl x509 -noout -in /srv/health.pem'
    cp "$work/sick/cert.pem" "$work/sick/health.pem"
    in_net podman healthcheck run sick >/dev/null
    check "one whose health check passes is served within 5 s" within 5 answers sick
    rm "$work/sick/health.pem"
    in_net podman healthcheck run sick >/dev/null || true
    check "one whose health check fails is refused within 5 s" within 5 is_down sick
    cp "$work/sick/cert.pem" "$work/sick/health.pem"
    in_net podman healthcheck run sick >/dev/null
    check "one that has recovered is served within 5 s" within 5 answers sick
}

check_removal() {
    in_net podman rm -f -t 0 three >/dev/null
    check "the name of one that was removed is unknown within 5 s" within 5 alerted three 112
}

check_wrong_labels() {
    run outside 10.89.44.15 --label snigate.sni=outside.other.test
    run thief 10.89.44.16 --label snigate.sni=one.example.test
    check "a name that is not allowed is reported within 5 s" within 5 reported outside 'docker.allow'
    check "a name of an older one is reported" within 5 reported thief 'goes to the older container one'
    check "and the older one keeps it" answers one
    in_net podman rm -f -t 0 outside thief >/dev/null
}

check_networks() {
    in_net podman network create --subnet 10.89.45.0/24 snigate-other >/dev/null
    in_net podman network connect snigate-other two
    check "one in two networks is reported within 5 s" within 5 reported two 'several networks'
    in_net podman network disconnect snigate-other two
    check "and served when it has left one, within 5 s" within 5 answers two
}

check_engine_gone() {
    kill "$engine"
    wait "$engine" 2>/dev/null || true
    rm -f "$work/podman.sock"
    check "the engine is missed" within 5 status '.docker.connected == false'
    check "what was found goes on" answers one
    run four 10.89.44.17 --label snigate.sni=four.example.test
    start_engine
    check "it is found again, with what has changed, within 20 s" within 20 answers four
    check "and the status says so" status '.docker.connected and .docker.error == null'
}

check_file_wins() {
    cat >"$work/config/new" <<END
$(config)
routes: [{ sni: one.example.test, pool: file }]
pools: { file: { backends: ["10.89.44.12:443"] } }
END
    mv "$work/config/new" "$work/config/config.yaml"
    check "a route of the file takes the name, within 5 s" within 5 answers_as one two
    check "the container is reported" within 5 reported one 'of the file, at'
}

check_compose_labels() {
    echo "== compose/labels.yaml"
    in_net podman rm -af -t 0 >/dev/null
    kill "$started"
    wait "$started" 2>/dev/null || true
    cp -r "$repository/deploy" "$work/deploy"
    # As the socket of Docker: for its group.
    chmod 660 "$work/podman.sock"
    export DOCKER_SOCKET=$work/podman.sock
    compose labels up -d --no-build >/dev/null 2>&1
    check "a name of a label is served within 15 s" within 15 composed one.example.test one
    check "and a name below a wildcard" within 5 composed a.two.example.test two
    check "the services have pools of their own" status \
        '[.docker.containers[].pool] | sort == ["snigate-labels/one@docker", "snigate-labels/two@docker"]'
    check "snigate is healthy" within 10 in_net podman healthcheck run "$(container snigate)"
    in_net podman stop -t 0 "$(container one)" >/dev/null
    check "a service that is stopped is refused within 5 s" within 5 refuses composed one.example.test one
    compose labels down -t 0 >/dev/null 2>&1
}

check_compose_monitoring() {
    echo "== compose/compose.yaml with --profile monitoring, without Grafana"
    compose compose --profile monitoring up -d --no-build snigate one two three prometheus >/dev/null 2>&1
    local name
    for name in one two three; do
        check "$name is served within 15 s" within 15 composed "$name.example.test" "$name"
    done
    check "snigate is healthy" within 10 in_net podman healthcheck run "$(container snigate)"
    check "Prometheus scrapes it within 20 s" within 20 scraped
    check "and has loaded the alerts" loaded_alerts
    compose compose --profile monitoring down -t 0 >/dev/null 2>&1
}

# ---- how it is checked

ask() { # NAME CONTAINER: as a client that trusts the certificate of this container and no other
    in_net curl -sS --max-time 10 --noproxy '*' --cacert "$work/$2/cert.pem" \
        --connect-to "::127.0.0.1:8443" "https://$1.example.test/who"
}

answers() { [[ $(ask "$1" "$1") == "this is $1" ]]; }

answers_as() { # NAME CONTAINER: its certificate has its own name only
    local said
    said=$(in_net curl -sSk --max-time 10 --noproxy '*' --connect-to "::127.0.0.1:8443" "https://$1.example.test/who")
    echo "$said"
    [[ $said == "this is $2" ]]
}

handshake() { # NAME: a container that is paused never answers
    in_net timeout 2 openssl s_client -connect 127.0.0.1:8443 -servername "$1.example.test" </dev/null 2>&1 || true
}

alerted() { # NAME NUMBER
    local said
    said=$(handshake "$1")
    echo "$said"
    [[ $said == *"SSL alert number $2"* ]]
}

is_down() { # NAME: known, and refused
    local seen
    seen=$(wc -l <"$work/log")
    handshake "$1" >/dev/null
    within 2 logged_after "$seen" "\"reason\":\"no_backend\".*\"sni\":\"$1.example.test\""
}

logged_after() { tail -n +"$(($1 + 1))" "$work/log" | grep -E "$2"; }

api() { in_net curl -sS --max-time 10 --noproxy '*' "http://127.0.0.1:9901$1"; }

status() { api /api/v1/status | jq -e "$1"; }

reported() { # CONTAINER TEXT
    api /api/v1/status | jq -r --arg name "$1" '.docker.containers[] | select(.name == $name) | .problems[].message' |
        grep -F -- "$2"
}

explained() { in_net "$snigate" explain "$1.example.test" --admin 127.0.0.1:9901 | tr '\n' ' ' | grep -E "$2"; }

doctored() { # PATTERN
    local said
    said=$(in_net "$snigate" doctor --timeout 5s "$work/config/config.yaml" 2>&1) || true
    echo "$said"
    grep -qE "$1" <<<"$said"
}

compose() { # FILE ARGUMENTS…
    in_net podman-compose --in-pod false -f "$work/deploy/compose/$1.yaml" "${@:2}"
}

composed() { # NAME SERVICE
    [[ $(in_net curl -sSk --max-time 10 --noproxy '*' --connect-to "::127.0.0.1:443" "https://$1/") == "this is $2" ]]
}

container() { in_net podman ps -aq --filter "label=com.docker.compose.service=$1"; }

prometheus() { in_net curl -sS --max-time 10 --noproxy '*' "http://127.0.0.1:9090/api/v1/$1"; }

scraped() { prometheus 'query?query=snigate_build_info' | jq -e '.data.result | length == 1'; }

loaded_alerts() { prometheus rules | jq -e '[.data.groups[].rules[]] | length > 5 and all(.[]; .health != "err")'; }

in_net() { nsenter --net="/run/netns/$netns" "$@"; }

# ---- what it runs in

run() { # NAME ADDRESS OPTIONS…
    local name=$1 address=$2
    mkdir -p "$work/$name"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$name" \
        -addext "subjectAltName=DNS:$name.example.test" -keyout "$work/$name/key.pem" -out "$work/$name/cert.pem" 2>/dev/null
    echo -n "this is $name" >"$work/$name/who"
    in_net podman run -d --name "$name" --network "snigate:ip=$address" --expose 443 -v "$work/$name:/srv:ro" -w /srv \
        "${@:3}" snigate-backend /usr/bin/openssl s_server -accept 443 -cert cert.pem -key key.pem -WWW >/dev/null
}

config() {
    cat <<END
listeners: [{ name: https, bind: "127.0.0.1:8443" }]
docker: { socket: $work/podman.sock, allow: ["**.example.test"] }
END
}

start_snigate() {
    mkdir -p "$work/config"
    config >"$work/config/config.yaml"
    nsenter --net="/run/netns/$netns" "$snigate" run "$work/config/config.yaml" >"$work/log" 2>&1 &
    started=$!
    within 10 logged_after 0 '"event":"ready"' >/dev/null
}

start_engine() {
    nsenter --net="/run/netns/$netns" podman system service --time=0 "unix://$work/podman.sock" >"$work/engine.log" 2>&1 &
    engine=$!
    within 20 curl -sf --unix-socket "$work/podman.sock" http://d/_ping >/dev/null
}

prepare() {
    local tool deb
    for tool in buildah podman podman-compose netavark runc curl openssl jq ip nsenter; do
        PATH=$PATH:/usr/lib/podman command -v "$tool" >/dev/null ||
            { echo "$tool is missing: run with --install" >&2; exit 2; }
    done
    [[ -x $snigate ]] || { echo "$snigate is missing: run cargo build, or set SNIGATE" >&2; exit 2; }
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    mkdir "$work/tmp"
    export TMPDIR=$work/tmp
    # The ulimits: podman's own can be above what this process may pass on, and then no container starts.
    cat >"$work/containers.conf" <<END
[containers]
default_ulimits = ["nofile=$(ulimit -Hn):$(ulimit -Hn)", "nproc=10000:10000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
static_dir = "$work/libpod"
tmp_dir = "$work/libpod-tmp"
volume_path = "$work/volumes"
[network]
network_backend = "netavark"
network_config_dir = "$work/networks"
END
    cat >"$work/storage.conf" <<END
[storage]
driver = "overlay"
graphroot = "$work/storage"
runroot = "$work/storage-run"
END
    # Health checks are run by hand here, not by timers of systemd.
    export CONTAINERS_CONF=$work/containers.conf CONTAINERS_STORAGE_CONF=$work/storage.conf BUILDAH_ISOLATION=chroot \
        DISABLE_HC_SYSTEMD=true
    image snigate-backend /usr/bin/openssl /usr/bin/openssl --cmd openssl
    image snigate:dev "$snigate" /usr/local/bin/snigate --user 65532:65532 --entrypoint '["/usr/local/bin/snigate"]' \
        --healthcheck 'CMD /usr/local/bin/snigate healthcheck'
    (cd "$work" && apt-get -q download caddy prometheus 2>/dev/null && for deb in *.deb; do dpkg -x "$deb" debian; done)
    image docker.io/library/caddy:2 "$work/debian/usr/bin/caddy" /usr/bin/caddy --env XDG_DATA_HOME=/data \
        --env XDG_CONFIG_HOME=/config --cmd 'caddy run --config /etc/caddy/Caddyfile'
    image docker.io/prom/prometheus:v3.5.0 "$work/debian/usr/bin/prometheus" /bin/prometheus \
        --entrypoint '["/bin/prometheus"]' --cmd '--config.file=/etc/prometheus/prometheus.yml --storage.tsdb.path=/data'
    ip netns add "$netns"
    ip -n "$netns" link set lo up
    in_net podman network create --subnet 10.89.44.0/24 snigate >/dev/null
}

image() { # NAME PROGRAM PATH-IN-IMAGE OPTIONS-OF-BUILDAH-CONFIG…
    local c library root=$work/root
    rm -rf "$root"
    install -D "$2" "$root$3"
    mkdir -p "$root"/{data,config,srv,tmp}
    ldd "$2" | grep -oE '/[^ ]+' | while read -r library; do install -D "$library" "$root$library"; done
    c=$(buildah from scratch)
    buildah add -q "$c" "$root" / >/dev/null
    buildah config --env PATH=/usr/local/bin:/usr/bin:/bin "${@:4}" "$c" 2>/dev/null
    buildah commit -q --format docker "$c" "$1" >/dev/null
    buildah rm "$c" >/dev/null
}

clean_up() {
    local status=$? mount
    set +e
    if ((status != 0)); then
        echo "== the log of snigate; $passed passed, $failed failed so far"
        grep -v '"event":"connection"' "$work/log" 2>/dev/null | tail -n 30
        tail -n 5 "$work/engine.log" 2>/dev/null
    fi
    kill $started $engine 2>/dev/null
    if [[ -e /run/netns/$netns ]]; then
        in_net podman rm -af -t 0 >/dev/null 2>&1
        in_net podman network prune -f >/dev/null 2>&1
    fi
    buildah rm -a >/dev/null 2>&1
    ip netns del "$netns" 2>/dev/null
    awk -v under="$work/" 'index($2, under) == 1 {print $2}' /proc/mounts | sort -r | while read -r mount; do
        umount -l "$mount"
    done
    rm -rf "$work"
    exit "$status"
}

install_tools() {
    apt-get -q update
    DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends \
        buildah podman runc netavark aardvark-dns iptables iproute2 curl openssl jq python3-venv
    python3 -m venv "$tools"
    "$tools/bin/pip" install -q podman-compose
}

repository=$(cd "$(dirname "$0")/../.." && pwd)
snigate=$(realpath -m "${SNIGATE-$repository/target/debug/snigate}")
tools=${XDG_CACHE_HOME:-$HOME/.cache}/snigate-e2e
PATH=$PATH:$tools/bin
work=$(mktemp -d /tmp/snigate-labels.XXXXXX)
netns=snigate-labels-$$
engine=
started=
# shellcheck source=deploy/e2e/lib/checks.sh
source "$repository/deploy/e2e/lib/checks.sh"

main "$@"
