#!/usr/bin/env bash
# Makes the packages, checks them with lintian and rpmlint, and lives with them on a fresh Debian under a real systemd: install,
# serve, reload, upgrade while clients are connected, restart behind a socket unit, remove, purge. Needs root.
#
# Takes about three minutes.
#
#   deploy/e2e/packages.sh             # with what is installed
#   deploy/e2e/packages.sh --install   # installs Debian packages and cargo tools first
#
# The binary is SNIGATE_BINARY, by default that of deploy/e2e/containers.sh (target/image/snigate), or else one that is built now.
#
# Everything lives in one temporary directory and in one machine of systemd-nspawn without a network, and goes away on exit.
set -euo pipefail

main() {
    [[ ${1-} != --install ]] || install_tools
    prepare
    make_packages
    check_files
    check_rpm
    make_root
    boot
    start_backends shop.example.com:9443 mail.example.com:9444
    check_install
    check_reload
    check_log
    check_token
    check_upgrade
    check_failed_upgrade
    check_watchdog
    check_socket
    check_removal
    check_by_hand
    power_off
    check_first_accept
    check_newcomer
    echo "$passed passed, $failed failed"
    ((failed == 0))
}

# ---- what is checked

check_files() {
    check "lintian finds nothing" lintian --fail-on error,warning "$deb"
    check "rpmlint finds no error" rpm_is_clean
    check "the .tar.gz holds binary, man pages and units" \
        holds "$archive" /snigate /man/snigate-run.1.gz /systemd/snigate.service /completions/_snigate /LICENSE-MIT
    check "every man page is well-formed" man_pages_are_clean
    local file
    for file in usr/bin/snigate usr/lib/systemd/system/snigate.socket usr/share/man/man1/snigate-check.1.gz \
        usr/share/bash-completion/completions/snigate etc/snigate/config.yaml; do
        check "the .deb and the .rpm hold /$file" both_hold "$file"
    done
}

# There is no Fedora here: RPM installs into a Debian tree, with a database of its own, and runs the scriptlets there.
check_rpm() {
    make_root
    check "rpm installs it" in_tree -i --nodeps "$rpm"
    check "every file is as it should be" in_tree -V --nodeps snigate
    check "with its user" chroot "$root" getent passwd snigate
    check "the service is enabled, as Debian's presets say" is "$(chroot "$root" systemctl is-enabled snigate)" enabled
    check "the installed program runs" chroot "$root" snigate check /etc/snigate/config.yaml
    echo "# mine" >>"$root/etc/snigate/config.yaml"
    check "rpm upgrades it" in_tree -U --nodeps --force "$rpm"
    check "and keeps the configuration" grep -q '^# mine' "$root/etc/snigate/config.yaml"
    check "rpm removes it" in_tree -e snigate
    check "with the program" test ! -e "$root/usr/bin/snigate"
    check "but an edited configuration stays" test -e "$root/etc/snigate/config.yaml.rpmsave"
    rm -rf "$root"
}

check_install() {
    mkdir "$root/packages"
    cp "$deb" "$next_deb" "$root/packages/"
    check "dpkg installs it" install_deb "$deb"
    check "it runs at once" in_machine systemctl is-active snigate
    check "and after the next boot" in_machine systemctl is-enabled snigate
    check "as its own user" grep -Eq "^Uid:(\s+$(in_machine id -u snigate)){4}" "/proc/$(outside)/status"
    check "with one capability" is "$(awk '/^Cap(Prm|Eff|Bnd)/ {print $2}' "/proc/$(outside)/status" | sort -u)" 0000000000000400
    check "a client is refused in TLS: there is no route yet" alerted shop.example.com 112
    check "root reads the status through the socket" in_machine snigate status
    check "the unit has no fault that systemd sees" in_machine systemd-analyze verify snigate.service snigate.socket
}

check_reload() {
    routing_file ""
    check "a saved file is in force at once" within 5 answers shop.example.com
    check "each name has its own certificate" answers mail.example.com
    local before
    before=$(main_pid)
    routing_file "routs: []"
    check "systemctl reload refuses a file with an error" refuses in_machine systemctl reload snigate
    check "the journal shows where" journal "/etc/snigate/config\.yaml:[0-9]+:[0-9]+.*routs"
    check "and the service goes on" answers shop.example.com
    routing_file ""
    check "systemctl reload takes a good file" in_machine systemctl reload snigate
    check "all of that without a restart" is "$(main_pid)" "$before"
}

check_log() {
    check "the journal has a line for each connection" journal '"event":"connection".*"sni":"shop.example.com"'
    routing_file "log: { file: /var/log/snigate/snigate.log }"
    in_machine systemctl restart snigate
    check "log.file works inside the sandbox of the unit" within 5 logs_to_file
    routing_file ""
    in_machine systemctl restart snigate
}

check_token() {
    in_machine sh -c 'umask 077 && echo 0123456789abcdef0123456789abcdef >/etc/snigate/token'
    in_machine mkdir -p /etc/systemd/system/snigate.service.d
    in_machine cp /usr/share/doc/snigate/examples/snigate.service.d/admin-token.conf /etc/systemd/system/snigate.service.d/
    # shellcheck disable=SC2016
    sed -i 's#^admin:.*#&\n  token_file: "${CREDENTIALS_DIRECTORY:-/etc/snigate}/token"#' "$root/etc/snigate/config.yaml"
    in_machine systemctl daemon-reload
    in_machine systemctl restart snigate
    check "a token that only root can read is accepted" \
        in_machine env SNIGATE_TOKEN=0123456789abcdef0123456789abcdef snigate reload --admin 127.0.0.1:9901
    check "another one is not" refuses in_machine env SNIGATE_TOKEN=wrong snigate reload --admin 127.0.0.1:9901
    check "systemctl reload finds the token, too" in_machine systemctl reload snigate
    check "root's commands read the same file" in_machine snigate check /etc/snigate/config.yaml
    in_machine rm /etc/systemd/system/snigate.service.d/admin-token.conf
    routing_file ""
    in_machine systemctl daemon-reload
    in_machine systemctl restart snigate
}

check_upgrade() {
    local before download asking
    before=$(main_pid)
    ask shop.example.com big --limit-rate 4M -o /srv/got &
    download=$!
    ask_again_and_again "$work/asked" &
    asking=$!
    within 5 larger "$root/srv/got" 1000000 || true
    check "dpkg upgrades it while clients are connected" install_deb "$next_deb"
    check "another process serves" refuses is "$(main_pid)" "$before"
    check "of the new version" is "$(readlink "/proc/$(outside)/exe")" /usr/bin/snigate
    check "which systemd has not restarted" is "$(in_machine systemctl show -P NRestarts snigate)" 0
    check "the transfer that was open ends well" wait "$download"
    check "with every byte" cmp "$root/srv/shop.example.com/big" "$root/srv/got"
    touch "$work/enough"
    wait "$asking" || true
    check "no client was refused meanwhile, of $(wc -l <"$work/asked")" refuses grep -qv '^this is' "$work/asked"
    check "and there were some" test "$(wc -l <"$work/asked")" -gt 10
    check "the old process is gone after its drain" within 40 is_alone
}

check_failed_upgrade() {
    local before
    before=$(main_pid)
    routing_file "routs: []"
    install_deb "$deb" >"$work/dpkg" 2>&1 || true
    check "a version that cannot start leaves the old one serving" answers shop.example.com
    check "which is still the same process" is "$(main_pid)" "$before"
    check "and dpkg's output says so" grep -q 'the OLD version is still serving' "$work/dpkg"
    routing_file ""
    in_machine systemctl restart snigate
    check "after the cure, a restart is enough" answers shop.example.com
}

check_watchdog() {
    local before
    drop_in watchdog.conf '[Service]\nWatchdogSec=2s'
    before=$(main_pid)
    in_machine sh -c "kill -STOP $before"
    check "a process that hangs is replaced (WatchdogSec)" within 20 serves_other_than "$before"
    in_machine rm /etc/systemd/system/snigate.service.d/watchdog.conf
    in_machine systemctl daemon-reload
    in_machine systemctl restart snigate
    check "the journal has its end" journal 'Watchdog timeout'
    before=$(main_pid)
    in_machine sh -c "kill -KILL $before"
    check "a process that is killed is replaced" within 10 serves_other_than "$before"
}

check_socket() {
    in_machine cp /usr/share/doc/snigate/examples/snigate.service.d/socket-activated.conf /etc/systemd/system/snigate.service.d/
    in_machine systemctl daemon-reload
    in_machine systemctl stop snigate
    check "the socket unit can be enabled" in_machine systemctl enable --now snigate.socket
    check "the first client starts the service" within 20 answers shop.example.com
    check "which has no capability" is "$(awk '/^Cap(Prm|Eff|Bnd)/ {print $2}' "/proc/$(outside)/status" | sort -u)" 0000000000000000
    rm -f "$work/enough"
    ask_again_and_again "$work/asked" &
    local asking=$! before
    before=$(main_pid)
    within 5 larger "$work/asked" 50 || true
    check "it is restarted while clients come" in_machine systemctl restart snigate
    check "it is another process" refuses is "$(main_pid)" "$before"
    within 5 larger "$work/asked" "$(($(stat -c %s "$work/asked") + 100))" || true
    touch "$work/enough"
    wait "$asking" || true
    check "clients waited instead of being refused" refuses grep -qv '^this is' "$work/asked"
    check "with the user namespace of the drop-in" refuses is "$(readlink "/proc/$(outside)/ns/user")" "$(readlink "/proc/$leader/ns/user")"
}

check_removal() {
    in_machine rm -rf /etc/systemd/system/snigate.service.d
    local process
    process=$(outside)
    check "dpkg removes it" in_machine dpkg -r snigate
    check "and stops it" test ! -e "/proc/$process"
    check "the configuration stays" test -e "$root/etc/snigate/config.yaml"
    check "it can be installed again" install_deb "$deb"
    check "with the configuration of before" within 5 answers shop.example.com
    rm -f "$root/etc/snigate/token"
    check "dpkg purges it" in_machine dpkg -P snigate
    check "and nothing is left" is "$(in_machine find / -xdev -name '*snigate*' -not -path '/proc/*' -not -path '/var/lib/dpkg/*' \
        -not -path '/packages*' -not -path '/run/log/*')" ""
    check "no unit of it has failed" is "$(in_machine systemctl list-units --all --no-legend 'snigate*')" ""
}

# The unit as it is in the repository, the way docs/systemd.md describes.
check_by_hand() {
    # The purge has left it.
    in_machine sh -c 'userdel snigate 2>/dev/null || true'
    install -m 755 "$binary" "$root/usr/local/bin/snigate"
    install -D -m 644 "$repository/deploy/container.yaml" "$root/etc/snigate/config.yaml"
    install -m 644 "$repository/deploy/systemd/snigate.service" "$root/etc/systemd/system/snigate.service"
    in_machine systemctl daemon-reload
    check "without a package, the unit starts" in_machine systemctl enable --now snigate
    routing_file "log: { file: /var/log/snigate/snigate.log }"
    in_machine systemctl restart snigate
    check "and serves on port 443" within 5 answers shop.example.com
    check "as a dynamic user" refuses in_machine grep -q snigate /etc/passwd
    check "with log.file" grep -q shop.example.com "$root/var/log/private/snigate/snigate.log"
    check "and is reloaded" in_machine systemctl reload snigate
}

# From `exec` to the first connection that is accepted, with ten routes. The best of twenty, which no other program delayed.
check_first_accept() {
    check "the first client is accepted within 30 ms of the start" \
        python3 "$repository/deploy/e2e/lib/first_accept.py" "$binary" 30
    sed 's/^/      /' "$work/said"
}

check_newcomer() {
    check "from a fresh Debian to names that are served" "$repository/deploy/e2e/newcomer.sh" "$deb"
    sed 's/^/      /' "$work/said"
}

# ---- how it is checked

rpm_is_clean() {
    rpmlint --config "$repository/deploy/package/rpm/rpmlint.toml" "$rpm"
}

man_pages_are_clean() {
    local page
    for page in "$repository"/target/package/man/*.gz; do
        zcat "$page" | mandoc -Tlint -W error || return 1
    done
}

both_hold() { # PATH
    holds <(dpkg-deb --fsys-tarfile "$deb") "./$1" && grep -qx "/$1" <(rpm -qpl "$rpm")
}

holds() { # TAR ENDING…
    local list ending
    list=$(if [[ $1 == *.gz ]]; then tar -tzf "$1"; else tar -t <"$1"; fi)
    for ending in "${@:2}"; do
        grep -q -- "${ending//./\\.}\$" <<<"$list" || { echo "no $ending"; return 1; }
    done
}

install_deb() {
    in_machine env DEBIAN_FRONTEND=noninteractive dpkg -i "/packages/${1##*/}"
}

in_tree() { # OPTIONS OF RPM…
    rpm --root "$root" --dbpath /var/lib/rpm "$@"
}

main_pid() { in_machine systemctl show --property=MainPID --value snigate; }

# The number that the main process has on this side.
outside() {
    local inside
    inside=$(main_pid)
    awk -v inside="$inside" '/^NSpid:/ && $NF == inside && NF == 3 {print FILENAME}' /proc/[0-9]*/status 2>/dev/null |
        grep -Eo '[0-9]+' | head -n 1
}

serves_other_than() { # PID
    local now
    now=$(main_pid)
    [[ $now != 0 && $now != "$1" ]] && answers shop.example.com
}

is_alone() { [[ $(in_machine sh -c 'ls -l /proc/[0-9]*/exe 2>/dev/null' | grep -c '/usr/bin/snigate') == 1 ]]; }

journal() { # PATTERN
    in_machine journalctl --no-pager -o cat -u snigate | grep -E "$1"
}

logs_to_file() { answers shop.example.com && grep -q shop.example.com "$root/var/log/snigate/snigate.log"; }

alerted() { # NAME NUMBER
    local said
    said=$(in_machine openssl s_client -connect 127.0.0.1:443 -servername "$1" </dev/null 2>&1) || true
    echo "$said"
    [[ $said == *"SSL alert number $2"* ]]
}

ask_again_and_again() { # FILE: one line for each answer or error, until there is a file `enough`
    while [[ ! -e $work/enough ]]; do
        ask mail.example.com index --connect-timeout 10 2>&1 || true
    done >"$1"
}

drop_in() { # FILE TEXT
    mkdir -p "$root/etc/systemd/system/snigate.service.d"
    printf '%b\n' "$2" >"$root/etc/systemd/system/snigate.service.d/$1"
    in_machine systemctl daemon-reload
    in_machine systemctl restart snigate
}

routing_file() { # LINE: of the user's own, with one more line
    cat >"$root/etc/snigate/config.new" <<END
listeners: [{ name: https, bind: "[::]:443" }]
routes: [{ sni: shop.example.com, pool: shop }, { sni: mail.example.com, pool: mail }]
pools:
  shop: { backends: [127.0.0.1:9443] }
  mail: { backends: [127.0.0.1:9444] }
admin:
  bind: ["unix:/run/snigate/admin.sock", "127.0.0.1:9901"]
$1
END
    mv "$root/etc/snigate/config.new" "$root/etc/snigate/config.yaml"
}

# ---- what it runs in

make_packages() {
    echo "== packages"
    local target
    target=$(uname -m)-unknown-linux-musl
    binary=${SNIGATE_BINARY:-$repository/target/image/snigate}
    [[ -x $binary ]] || { "$repository/deploy/package/build.sh" && binary=$repository/target/$target/release/snigate; }
    # cargo-deb and cargo-generate-rpm look for the binary where cargo puts it.
    install -D -m 755 "$binary" "$work/target/$target/release/snigate"
    CARGO_TARGET_DIR=$work/target "$repository/deploy/package/package.sh" "$target" "$work/packages"
    deb=$(echo "$work"/packages/snigate_*.deb) rpm=$(echo "$work"/packages/snigate-*.rpm)
    archive=$(echo "$work"/packages/snigate-*.tar.gz)
    # The same once more, as the next revision.
    CARGO_TARGET_DIR=$work/target cargo deb --quiet --fast --no-build --no-strip --target "$target" --deb-revision 2 \
        --manifest-path "$repository/Cargo.toml" --output "$work/packages/next.deb"
    next_deb=$work/packages/next.deb
    ls -l "$work/packages"
}

prepare() {
    local tool
    for tool in cargo-deb cargo-generate-rpm lintian rpm rpmlint mmdebstrap systemd-nspawn nsenter mandoc python3 openssl; do
        command -v "$tool" >/dev/null || { echo "$tool is missing: run with --install" >&2; exit 2; }
    done
    trap clean_up EXIT
    trap 'exit 130' INT TERM
}

clean_up() {
    local status=$? job
    set +e
    if ((status != 0)) && [[ -n ${leader-} ]]; then
        echo "== the journal; $passed passed, $failed failed so far"
        in_machine journalctl --no-pager -u snigate | tail -n 30
    fi
    touch "$work/enough"
    power_off
    for job in $(jobs -p); do kill "$job" 2>/dev/null; done
    rm -rf "$work"
    exit "$status"
}

install_tools() {
    apt-get -q update
    DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends \
        lintian rpm rpmlint mmdebstrap systemd-container mandoc musl-tools openssl python3
    local tool
    for tool in cargo-auditable@0.7.7 cargo-deb@3.8.0 cargo-generate-rpm@0.21.1; do
        # Without optimization: they are built faster than they save.
        command -v "${tool%@*}" >/dev/null || cargo install "$tool" --locked --quiet --debug
    done
}

repository=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d /tmp/snigate-packages.XXXXXX)
# shellcheck source=deploy/e2e/lib/checks.sh
source "$repository/deploy/e2e/lib/checks.sh"
# shellcheck source=deploy/e2e/lib/machine.sh
source "$repository/deploy/e2e/lib/machine.sh"

main "$@"
