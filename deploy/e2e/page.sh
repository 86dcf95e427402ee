#!/usr/bin/env bash
# Drives the status page in a real Chromium: deploy/e2e/page/page.test.js. Uses loopback only.
#
#   deploy/e2e/page.sh             # builds the binary, then tests it
#   SNIGATE=PATH deploy/e2e/page.sh   # tests this binary
#
# Needs node (20 or newer), npm, openssl and chromium; CHROMIUM names another executable. Screenshots of every state are
# kept in deploy/e2e/page/artifacts.
set -euo pipefail
cd "$(dirname "$0")/page"

if [ -z "${SNIGATE-}" ]; then
  cargo build --locked --quiet
  SNIGATE=$(cargo metadata --locked --no-deps --format-version 1 | node -p 'JSON.parse(require("fs").readFileSync(0)).target_directory')/debug/snigate
fi
export SNIGATE

[ -d node_modules/playwright-core ] || npm ci --silent
node --test --test-reporter spec page.test.js
