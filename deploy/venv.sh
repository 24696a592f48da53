#!/usr/bin/env bash
# Make the virtual environment that the Makefile uses: `venv.sh` for running Remit, `venv.sh dev` for its tests too.
# It says what it will download before it starts, and does nothing when nothing changed.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
venv=${VENV:-.venv}
extra=${1:-}

stop() { printf 'remit: %s\n' "$1" >&2; exit 1; }

command -v "$python" >/dev/null || stop "no \`$python\` found: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  stop "\`$python\` is $("$python" -V 2>&1), but Remit needs 3.11 or newer: name one with make PYTHON=/path/to/python3.11"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
  stop "\`$python\` has no venv module: on Debian or Ubuntu install it with: apt install python3-venv"

stamp=$venv/.remit${extra:+-$extra}
wanted=$(cat pyproject.toml client/pyproject.toml deploy/constraints.txt deploy/venv.sh | sha256sum | cut -d' ' -f1)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0

free_mb=$(df -Pm . | awk 'NR==2 {print $4}')
[ "$free_mb" -ge 3000 ] || [ -d "$venv/lib" ] ||
  stop "only $free_mb MB are free in $PWD, but the environment needs 3,000 MB: free some space, or name another place with make VENV=/path"

if [ ! -x "$venv/bin/python" ]; then
  "$python" -m venv "$venv" || stop "could not create \`$venv\`: see the message above"
fi
if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
  if [ -n "${TORCH_INDEX:-}" ]; then
    echo "Remit: downloading about 600 MB (PyTorch for CPU from \$TORCH_INDEX, and the other packages) into $venv"
  else
    echo "Remit: downloading the packages that deploy/constraints.txt names into $venv."
    echo "       PyTorch's public wheel for Linux brings several GB of CUDA. To avoid that, stop here and choose its CPU index:"
    echo "       make TORCH_INDEX=https://download.pytorch.org/whl/cpu ..."
  fi
fi
pip() {
  local log=$venv/pip.log
  if ! "$venv/bin/python" -m pip --disable-pip-version-check install --quiet "$@" >"$log" 2>&1; then
    grep -v '^WARNING' "$log" | tail -15 >&2
    grep -q 'No space left on device' "$log" && stop "the disk is full: free about 3 GB, then run the same command again"
    stop "the packages could not be installed: the lines above say why, the whole story is in $log; running the same command again goes on where it stopped"
  fi
}
torch=$(grep '^torch==' deploy/constraints.txt)
if [ -n "${TORCH_INDEX:-}" ]; then pip --index-url "$TORCH_INDEX" "$torch"; fi
pip --constraint deploy/constraints.txt hatchling editables
pip --constraint deploy/constraints.txt --no-build-isolation --editable ./client --editable ".${extra:+[$extra]}"
printf %s "$wanted" >"$stamp"
[ "$extra" = dev ] && printf %s "$wanted" >"$venv/.remit"
exit 0
