# shellcheck shell=bash
# What the scripts of deploy/e2e check with. They set `work`, a directory of their own.

passed=0
failed=0

check() { # WHAT COMMAND…
    local what=$1
    shift
    # shellcheck disable=SC2154
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
