#!/usr/bin/env bash
# Builds the image from the Dockerfile as it is, starts deploy/compose as it is, and checks from a client's side that
# both do what docs/containers.md says. Needs root, no Docker engine, and no image registry.
#
#   deploy/e2e/containers.sh             # with what is installed
#   deploy/e2e/containers.sh --install   # installs Debian packages, and podman-compose from PyPI, first
#
# The public base images may be out of reach, so stand-ins are made here that carry their names: rust:1-bookworm,
# gcr.io/distroless/cc-debian12:nonroot and docker.io/library/caddy:2. They are Debian packages in the same places
# under the same user, with this machine's Rust toolchain and crates mounted; they stand in for name and layout only.
#
# Everything lives in one temporary directory and one network namespace, and goes away on exit.

set -euo pipefail

main() {
    [[ ${1-} != --install ]] || install_tools
    prepare
    make_stand_ins
    build_image
    check_image
    start_compose
    check_hardening
    check_routing
    check_live_edit
    check_drain
    echo "$passed passed, $failed failed"
    ((failed == 0))
}

# ---- what is checked

check_image() {
    check "the image runs as nobody in particular and has a health check" image_says \
        '65532:65532 [CMD /usr/local/bin/snigate healthcheck]'
    local file other
    other=$(mktemp)
    chmod 644 "$other"
    printf 'listeners: [{ name: a, bind: 127.0.0.1:8443 }]\nadmin: { bind: 127.0.0.1:9902 }\n' >"$other"
    for file in container.yaml compose/config/config.yaml kubernetes/config.yaml; do
        check "snigate check deploy/$file" \
            podman run --rm --network none -v "$repository/deploy/$file:/config.yaml:ro" snigate:dev check /config.yaml
    done
    podman run -d --name bare --network none --read-only --cap-drop ALL snigate:dev >/dev/null
    check "with its own configuration it becomes healthy" within 10 podman healthcheck run bare
    podman rm -f -t 0 bare >/dev/null
    # Another file than the image's own, with another admin address: the health check follows it.
    podman run -d --name other --network none --read-only --cap-drop ALL -v "$other:/etc/other.yaml:ro" snigate:dev \
        run /etc/other.yaml >/dev/null
    check "with another file it becomes healthy" within 10 podman healthcheck run other
    podman rm -f -t 0 other >/dev/null
}

check_hardening() {
    local pid
    check "it becomes healthy behind compose" within 15 podman healthcheck run "$(container snigate)"
    pid=$(podman inspect -f '{{.State.Pid}}' "$(container snigate)")
    check "uid 65532" grep -Pq '^Uid:\t65532\t65532\t' "/proc/$pid/status"
    check "no capability" grep -Pq '^CapEff:\t0+$' "/proc/$pid/status"
    check "no new privileges" grep -Pq '^NoNewPrivs:\t1$' "/proc/$pid/status"
    check "a read-only root" grep -Eq '^[^ ]+ / [^ ]+ ro,' "/proc/$pid/mounts"
    check "at most 128 MiB" is "$(podman inspect -f '{{.HostConfig.Memory}}' "$(container snigate)")" $((128 << 20))
}

check_routing() {
    local name
    for name in one two three; do
        check "$name.example.test reaches $name, under the certificate of $name" \
            within 15 answers "$name.example.test" "$name"
    done
    check "the certificate of one is not that of two" refuses ask one.example.test two
    check "a name without a route gets the alert unrecognized_name" alerted nowhere.example.test 112
    check "the published admin port serves metrics" scraped snigate_build_info
}

check_live_edit() {
    local config=$work/compose/config/config.yaml before
    before=$(podman inspect -f '{{.State.Pid}}' "$(container snigate)")

    sed 's/pool: one/pool: two/' "$repository/deploy/compose/config/config.yaml" >"$config.new"
    mv "$config.new" "$config"
    check "a file renamed over the old one moves the route within 2 s" within 2 answers one.example.test two

    sed 's/pool: two/pool: tow/' "$repository/deploy/compose/config/config.yaml" >"$config.new"
    mv "$config.new" "$config"
    check "a broken file is refused" within 8 logged 'reload_rejected'
    check "with the place of the problem" within 1 logged '/config\.yaml:[0-9]+:[0-9]+'
    check "the routes before it go on" answers one.example.test two

    cp "$repository/deploy/compose/config/config.yaml" "$config"
    check "a file written in place is read, too" within 8 answers one.example.test one
    check "all of that without a restart" is "$(podman inspect -f '{{.State.Pid}}' "$(container snigate)")" "$before"
}

check_drain() {
    local id file=$work/download began stopping downloading
    id=$(container snigate)
    podman exec "$(container one)" dd if=/dev/urandom of=/srv/big bs=1M count=48 status=none
    ask one.example.test one big --limit-rate 8M -o "$file" &
    downloading=$!
    within 10 larger "$file" $((4 << 20)) || true

    began=$SECONDS
    in_net podman stop --time 30 "$id" >/dev/null &
    stopping=$!
    check "after SIGTERM a new connection is refused" within 3 refuses connects
    check "while the open transfer still runs" kill -0 "$downloading"
    check "the open transfer ends well" wait "$downloading"
    wait "$stopping" || true
    check "with every byte" same_as_big "$file"
    check "the process ends with 0" is "$(podman inspect -f '{{.State.ExitCode}}' "$id")" 0
    check "as soon as the transfer is over, not at the deadline" test $((SECONDS - began)) -lt 20
}

# ---- how it is checked

check() { # WHAT COMMAND…
    local what=$1
    shift
    if "$@" >"$work/said" 2>&1; then
        passed=$((passed + 1))
        echo "ok    $what"
    else
        failed=$((failed + 1))
        echo "FAIL  $what"
        tail -n 20 "$work/said" | sed 's/^/      /'
    fi
}

within() { # SECONDS COMMAND…: again and again until it succeeds
    local until=$((${EPOCHREALTIME/[.,]/} + $1 * 1000000))
    shift
    until "$@"; do
        ((${EPOCHREALTIME/[.,]/} < until)) || return 1
        sleep 0.1
    done
}

refuses() { ! "$@"; }

is() { [[ $1 == "$2" ]] || { echo "$1, not $2"; return 1; }; }

larger() { [[ $(stat -c %s "$1" 2>/dev/null || echo 0) -gt $2 ]]; }

ask() { # NAME BACKEND [PATH [CURL OPTIONS…]]: as a client that trusts this backend's authority and no other
    local name=$1 authority=$work/authority-$2.crt path=${3-}
    [[ -s $authority ]] ||
        podman exec "$(container "$2")" cat /data/caddy/pki/authorities/local/root.crt >"$authority"
    in_net curl -sS --max-time 30 --noproxy '*' --cacert "$authority" --resolve "$name:443:127.0.0.1" "${@:4}" \
        "https://$name/$path"
}

answers() { [[ $(ask "$1" "$2") == "this is $2" ]]; }

alerted() { # NAME NUMBER
    local said
    # That the handshake fails is the point; what counts is how.
    said=$(in_net openssl s_client -connect 127.0.0.1:443 -servername "$1" </dev/null 2>&1) || true
    echo "$said"
    [[ $said == *"SSL alert number $2"* ]]
}

connects() { in_net timeout 1 bash -c ': </dev/tcp/127.0.0.1/443' 2>/dev/null; }

scraped() { in_net curl -sS --noproxy '*' http://127.0.0.1:9901/metrics | grep "^$1"; }

logged() { podman logs "$(container snigate)" 2>&1 | grep -E "$1"; }

image_says() { is "$(podman image inspect -f '{{.Config.User}} {{.HealthCheck.Test}}' snigate:dev)" "$1"; }

same_as_big() { is "$(sha256sum <"$1")" "$(podman exec "$(container one)" cat /srv/big | sha256sum)"; }

container() { podman ps -aq --filter "label=com.docker.compose.service=$1"; }

in_net() { nsenter --net="/run/netns/$netns" "$@"; }

# ---- what it runs in

start_compose() {
    echo "== compose"
    # A copy of the directory, since the routing file is edited; compose.yaml itself is unchanged.
    cp -r "$repository/deploy/compose" "$work/compose"
    ip netns add "$netns"
    ip -n "$netns" link set lo up
    in_net podman-compose --in-pod false -f "$work/compose/compose.yaml" up -d --no-build
}

build_image() {
    echo "== snigate:dev"
    local mounts=(-v "$(rustc --print sysroot):$toolchain:ro")
    [[ $crates == none ]] || mounts+=(-v "$crates:/usr/local/cargo/registry:ro")
    buildah bud --pull-never --network host --layers --format docker "${mounts[@]}" \
        --build-arg REVISION="$(git -C "$repository" rev-parse HEAD 2>/dev/null || echo unknown)" \
        -t snigate:dev "$repository"
    podman image inspect -f 'snigate:dev has {{.Size}} bytes with its base' snigate:dev
}

make_stand_ins() {
    echo "== stand-ins for the public base images"
    local c
    # One Debian tree serves as builder and as backend.
    mmdebstrap --quiet --variant=minbase --mode=root \
        --include=ca-certificates,gcc,libc6-dev,make,pkg-config,caddy bookworm "$work/debian.tar"

    c=$(buildah from scratch)
    buildah add -q "$c" "$work/debian.tar" /
    buildah config --cmd 'caddy run --config /etc/caddy/Caddyfile' --env XDG_DATA_HOME=/data \
        --env XDG_CONFIG_HOME=/config "$c"
    buildah run "$c" -- mkdir -p /srv /data /config
    buildah commit -q "$c" docker.io/library/caddy:2

    # The toolchain is mounted there at build time.
    buildah config --cmd bash --env CARGO_HOME=/usr/local/cargo --env PATH="$toolchain/bin:/usr/sbin:/usr/bin:/sbin:/bin" "$c"
    if [[ $crates != none ]]; then buildah config --env CARGO_NET_OFFLINE=true "$c"; fi
    buildah add -q "$c" /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
    buildah commit -q "$c" rust:1-bookworm
    buildah rm "$c" >/dev/null

    mkdir -p "$work/debs" "$work/distroless/"{tmp,etc,home/nonroot}
    (cd "$work/debs" && apt-get -q download base-files netbase tzdata libc6 libgcc-s1 2>/dev/null)
    for c in "$work"/debs/*.deb; do dpkg -x "$c" "$work/distroless"; done
    chmod 1777 "$work/distroless/tmp"
    printf '%s\n' 'root:x:0:0:root:/root:/sbin/nologin' 'nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin' \
        >"$work/distroless/etc/passwd"
    c=$(buildah from scratch)
    buildah add -q "$c" "$work/distroless" /
    buildah config --user 65532 --workingdir /home/nonroot "$c"
    buildah commit -q "$c" gcr.io/distroless/cc-debian12:nonroot
    buildah rm "$c" >/dev/null
}

prepare() {
    local tool
    for tool in buildah podman podman-compose netavark mmdebstrap cargo curl openssl ip nsenter; do
        command -v "$tool" >/dev/null || PATH=$PATH:/usr/lib/podman command -v "$tool" >/dev/null ||
            { echo "$tool is missing: run with --install" >&2; exit 2; }
    done
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

    # With every crate of the lock file already here, the build needs no network.
    if cargo fetch --quiet --locked --manifest-path "$repository/Cargo.toml"; then
        crates=${CARGO_HOME:-$HOME/.cargo}/registry
    fi
}

clean_up() {
    local status=$? job mount
    set +e
    if ((status != 0)); then
        echo "== the log of snigate; $passed passed, $failed failed so far"
        podman logs "$(container snigate 2>/dev/null)" 2>/dev/null | tail -n 30
    fi
    for job in $(jobs -p); do kill "$job" 2>/dev/null; done
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
        buildah podman skopeo runc mmdebstrap netavark aardvark-dns iptables iproute2 curl openssl python3-venv
    python3 -m venv "$tools"
    "$tools/bin/pip" install -q podman-compose
}

repository=$(cd "$(dirname "$0")/../.." && pwd)
tools=${XDG_CACHE_HOME:-$HOME/.cache}/snigate-e2e
PATH=$PATH:$tools/bin
work=$(mktemp -d /tmp/snigate-e2e.XXXXXX)
netns=snigate-e2e-$$
toolchain=/usr/local/rustup/toolchains/host
crates=none
passed=0
failed=0

main "$@"
