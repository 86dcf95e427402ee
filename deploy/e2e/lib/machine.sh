# shellcheck shell=bash
# A fresh Debian under a real systemd, without a network: systemd-nspawn boots a root made by mmdebstrap. It needs root, and
# no systemd on this machine. `work` is a directory of the script that uses it.

# The root is kept from one run to the next: it holds nothing of snigate.
make_root() { # a fresh one in $root
    local cached=${XDG_CACHE_HOME:-$HOME/.cache}/snigate-e2e/bookworm-systemd.tar
    if [[ -z $(find "$cached" -mtime -7 2>/dev/null) ]]; then
        mkdir -p "${cached%/*}"
        mmdebstrap --quiet --variant=minbase --mode=root --include=systemd,systemd-sysv,dbus,ca-certificates,curl,openssl,iproute2,nginx-light \
            bookworm "$cached.new.tar"
        mv "$cached.new.tar" "$cached"
    fi
    # shellcheck disable=SC2154
    root=$work/root
    mkdir "$root"
    tar -xf "$cached" -C "$root"
    # With an empty one, systemd would take this for a first boot and wait for a network.
    tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
}

boot() { # the root; the journal of the machine is in its memory
    systemd-nspawn --quiet --directory="$root" --boot --register=no --keep-unit --private-network --console=pipe \
        </dev/null >"$work/console" 2>&1 &
    nspawn=$!
    within 60 booted || { tail -n 20 "$work/console"; echo "systemd does not boot here" >&2; return 1; }
}

booted() {
    leader=$(pgrep -P "$nspawn") && [[ $(in_machine systemctl is-system-running 2>/dev/null) =~ running|degraded ]]
}

in_machine() { # COMMAND…: as root
    nsenter -t "$leader" --all -- /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "$@"
}

power_off() {
    [[ -n ${nspawn-} ]] || return 0
    # The signal by which nspawn shuts the machine down; it is gone, at the latest, after that of KILL.
    kill -TERM "$nspawn" 2>/dev/null
    within 20 gone || kill -KILL "$nspawn"
    nspawn=
}

gone() { ! kill -0 "$nspawn" 2>/dev/null; }

# nginx as TLS servers in the machine, each with a certificate of its own name and two files.
start_backends() { # NAME:PORT…
    local pair name port
    for pair in "$@"; do
        name=${pair%:*} port=${pair#*:}
        mkdir -p "$root/srv/$name"
        echo "this is $name" >"$root/srv/$name/index"
        head -c 40000000 /dev/urandom >"$root/srv/$name/big"
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=$name" -addext "subjectAltName=DNS:$name" \
            -keyout "$root/srv/$name.key" -out "$root/srv/$name.crt" 2>/dev/null
        cat >"$root/etc/nginx/conf.d/$name.conf" <<END
server {
    listen 127.0.0.1:$port ssl;
    ssl_certificate /srv/$name.crt;
    ssl_certificate_key /srv/$name.key;
    root /srv/$name;
}
END
    done
    in_machine systemctl reload-or-restart nginx
}

ask() { # NAME [PATH [CURL OPTIONS…]]: as a client that trusts the certificate of this name and no other
    in_machine curl -sS --max-time 30 --cacert "/srv/$1.crt" --resolve "$1:443:127.0.0.1" "${@:3}" "https://$1/${2:-index}"
}

answers() { # NAME
    local said
    said=$(ask "$1") && is "$said" "this is $1"
}
