#!/usr/bin/env bash
# Lint the .proto files, and compare them with the last release (or, before the first, the main branch) for breaking changes.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v npx >/dev/null || { echo "buf: Node's npx is not installed; the API was not linted" >&2; exit "${REMIT_REQUIRE_LIVE:-0}"; }
buf() { npx --yes --package=@bufbuild/buf@1.75.0 -- buf "$@"; }
(cd proto && buf lint && buf format --diff --exit-code)
base=$(git describe --tags --abbrev=0 2>/dev/null || git rev-parse --verify --quiet origin/main || true)
if [ -n "$base" ] && git cat-file -e "$base:proto/buf.yaml" 2>/dev/null; then
  before=$(mktemp -d)
  trap 'rm -rf "$before"' EXIT
  git archive "$base" proto | tar -x -C "$before"
  (cd proto && buf breaking --against "$before/proto")
  echo "API: no breaking change since $base"
else
  echo "API: linted; nothing published yet to compare with"
fi
