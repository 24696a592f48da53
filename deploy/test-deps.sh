#!/usr/bin/env bash
# Install what the tests use beyond Python on Debian or Ubuntu: run as root.
# Without it the tests that need it are skipped with a reason.
set -euo pipefail
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive
packages=(acl make git util-linux python3-samba)
command -v npx >/dev/null || packages+=(nodejs npm)
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
# The OpenID Connect provider of tests/support/oidc, as its lock file pins it.
npm ci --prefix tests/support/oidc --no-audit --no-fund --silent
