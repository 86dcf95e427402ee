#!/usr/bin/env bash
# Builds the book of the documentation (target/book), without warnings, and searches in it without a server.
#
#   deploy/e2e/book.sh
#
# Needs mdbook; the search is tried only with chromium (CHROMIUM names another executable).
set -euo pipefail
cd "$(dirname "$0")/../.."

log=$(mktemp -d)
trap 'rm -r "$log"' EXIT
mdbook build 2>&1 | tee "$log/build"
if grep -qE 'WARN|ERROR' "$log/build"; then
  echo "book: mdbook warns" >&2
  exit 1
fi

chromium=${CHROMIUM:-chromium}
if ! command -v "$chromium" >/dev/null; then
  echo "book: built; the search was not tried: no chromium"
  exit 0
fi
timeout 120 "$chromium" --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking \
  --user-data-dir="$log/profile" --allow-file-access-from-files --virtual-time-budget=10000 --dump-dom \
  "file://$PWD/target/book/index.html?search=maglev" >"$log/found" 2>"$log/chromium"
grep -q '<a href="balancing.html?highlight=maglev' "$log/found" || {
  echo "book: the search does not find the page about Maglev" >&2
  exit 1
}
echo "book: built, and its search works without a server"
