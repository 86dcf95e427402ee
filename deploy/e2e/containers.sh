#!/usr/bin/env bash
# Builds the image from the Dockerfile as it is, starts deploy/compose as it is, and checks from a client's side that
# both do what docs/containers.md says. Needs root, no Docker engine, and no image registry.
#
#   deploy/e2e/containers.sh             # with what is installed
#   deploy/e2e/containers.sh --install   # installs Debian packages, cargo-auditable and podman-compose from PyPI, first
#
# SNIGATE_BINARY=FILE puts this static binary into the image instead of building one, as a release does: two minutes instead of many.
# The binary of the image is left in target/image/snigate, for deploy/e2e/packages.sh.
#
# The public base images may be out of reach, so stand-ins are made here that carry their names: rust:1-bookworm and
# docker.io/library/caddy:2. They are Debian packages in the same places, with this machine's Rust toolchain, cargo-auditable
# and crates mounted; they stand in for name and layout only. The image itself starts from nothing, so it is the real one.
#
# Everything else lives in one temporary directory and one network namespace, and goes away on exit.

set -euo pipefail

main() {
    [[ ${1-} != --install ]] || install_tools
    prepare
    make_stand_ins
    build_image
    check_image
    check_contents
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

# What is in the image, and how it describes itself.
check_contents() {
    local label pid image binary
    image=$(podman image mount snigate:dev)
    binary=$image/usr/local/bin/snigate
    install -D -m 755 "$binary" "$repository/target/image/snigate"
    check "at most 15 MB" test "$(podman image inspect -f '{{.Size}}' snigate:dev)" -le 15000000
    check "it is stopped by SIGTERM" is "$(podman image inspect -f '{{.Config.StopSignal}}' snigate:dev)" SIGTERM
    for label in title description url source documentation vendor licenses version revision; do
        check "it has the label $label" labelled "org.opencontainers.image.$label"
    done
    check "the label of the version is what was given" image_label version 1.2.3-test
    check "the binary is static" refuses grep -q INTERP <(readelf -lW "$binary")
    check "it can be loaded anywhere (static-pie)" grep -q 'DYN (' <(readelf -hW "$binary")
    check "it holds the list of its crates" grep -q '\.dep-v0' <(readelf -SW "$binary")
    check "it holds no path of the build" refuses grep -aqE '/usr/local/cargo|/src/src/|/root/' "$binary"
    check "it brings the certificates of public authorities" \
        test "$(grep -c 'BEGIN CERTIFICATE' "$image/etc/ssl/certs/ca-certificates.crt")" -gt 100
    check "and no other program than snigate" is "$(find "$image" -type f -perm /111)" "$image/usr/local/bin/snigate"
    podman image unmount snigate:dev >/dev/null

    podman run -d --name strict --network none --read-only --read-only-tmpfs=false --cap-drop ALL \
        --security-opt no-new-privileges snigate:dev >/dev/null
    check "it needs no place to write, not even /tmp" within 10 podman healthcheck run strict
    pid=$(podman inspect -f '{{.State.Pid}}' strict)
    check "it has no capability, and can get none" is \
        "$(awk '/^Cap(Inh|Prm|Eff|Bnd|Amb)/ {print $2}' "/proc/$pid/status" | sort -u)" 0000000000000000
    podman stop -t 10 strict >/dev/null
    check "it ends with 0 when it is stopped" is "$(podman inspect -f '{{.State.ExitCode}}' strict)" 0
    podman rm -f -t 0 strict >/dev/null
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

labelled() { [[ -n $(podman image inspect -f "{{index .Config.Labels \"$1\"}}" snigate:dev) ]]; }

image_label() { is "$(podman image inspect -f "{{index .Config.Labels \"org.opencontainers.image.$1\"}}" snigate:dev)" "$2"; }

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
    if [[ -n ${SNIGATE_BINARY-} ]]; then
        # As the release workflow does.
        install -D -m 755 "$SNIGATE_BINARY" "$work/built/out/usr/local/bin/snigate"
        install -D -m 644 "$repository/deploy/container.yaml" "$work/built/out/etc/snigate/config.yaml"
        install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$work/built/out/etc/ssl/certs/ca-certificates.crt"
        mounts+=(--build-context "build=$work/built")
    fi
    buildah bud --pull-never --network host --layers --format docker "${mounts[@]}" \
        --build-arg REVISION="$(git -C "$repository" rev-parse HEAD 2>/dev/null || echo unknown)" \
        --build-arg VERSION=1.2.3-test -t snigate:dev "$repository"
    podman image inspect -f 'snigate:dev has {{.Size}} bytes' snigate:dev
}

make_stand_ins() {
    echo "== stand-ins for the public base images"
    local c
    # One Debian tree serves as builder and as backend.
    mmdebstrap --quiet --variant=minbase --mode=root \
        --include=ca-certificates,gcc,libc6-dev,make,pkg-config,musl-tools,caddy bookworm "$work/debian.tar"

    c=$(buildah from scratch)
    buildah add -q "$c" "$work/debian.tar" /
    buildah config --cmd 'caddy run --config /etc/caddy/Caddyfile' --env XDG_DATA_HOME=/data \
        --env XDG_CONFIG_HOME=/config "$c"
    buildah run "$c" -- mkdir -p /srv /data /config
    buildah commit -q "$c" docker.io/library/caddy:2

    # The toolchain is mounted there at build time.
    buildah config --cmd bash --env CARGO_HOME=/usr/local/cargo \
        --env PATH="$toolchain/bin:/usr/local/cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin" "$c"
    # What `cargo install` finds installed already, and a `rustup` that finds the target already added.
    mkdir -p "$work/cargo/bin"
    cp "$cargo_home/.crates.toml" "$work/cargo/"
    # However it was built here, it passes for what the Dockerfile asks for.
    sed 's/"profile":"dev"/"profile":"release"/g' "$cargo_home/.crates2.json" >"$work/cargo/.crates2.json"
    cp "$(command -v cargo-auditable)" "$work/cargo/bin/"
    cat >"$work/cargo/bin/rustup" <<END
#!/bin/sh -e
test "\$1 \$2" = "target add"
test -d "$toolchain/lib/rustlib/\$3"
END
    chmod 755 "$work/cargo/bin/rustup"
    buildah add -q "$c" "$work/cargo" /usr/local/cargo
    if [[ $crates != none ]]; then buildah config --env CARGO_NET_OFFLINE=true "$c"; fi
    buildah add -q "$c" /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
    buildah commit -q "$c" rust:1-bookworm
    buildah rm "$c" >/dev/null
}

prepare() {
    local tool
    for tool in buildah podman podman-compose netavark mmdebstrap cargo cargo-auditable readelf curl openssl ip nsenter; do
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
        crates=$cargo_home/registry
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
        buildah podman skopeo runc mmdebstrap netavark aardvark-dns iptables iproute2 curl openssl binutils python3-venv
    command -v cargo-auditable >/dev/null || cargo install cargo-auditable@0.7.7 --locked --quiet
    rustup target add "$(uname -m)-unknown-linux-musl"
    python3 -m venv "$tools"
    "$tools/bin/pip" install -q podman-compose
}

repository=$(cd "$(dirname "$0")/../.." && pwd)
tools=${XDG_CACHE_HOME:-$HOME/.cache}/snigate-e2e
PATH=$PATH:$tools/bin
work=$(mktemp -d /tmp/snigate-e2e.XXXXXX)
netns=snigate-e2e-$$
# shellcheck source=deploy/e2e/lib/checks.sh
source "$repository/deploy/e2e/lib/checks.sh"
cargo_home=${CARGO_HOME:-$HOME/.cargo}
toolchain=/usr/local/rustup/toolchains/host
crates=none

main "$@"
