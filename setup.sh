#!/usr/bin/env bash
# Make (or complete) the virtual environment .venv with what Concert and its model families need (requirements.txt
# here and in the families' folders); with --dev, what its tests need too.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "setup.sh: Python 3.11 or newer is needed (set PYTHON=... to name one)" >&2
  exit 2
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null
  else
    echo "setup.sh: Python's venv module is missing; on Debian: sudo apt-get install python3-venv" >&2
    exit 2
  fi
fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check install --quiet "$@"; }
shopt -s nullglob
with_deps=(requirements.txt models/*/requirements.txt)
no_deps=(requirements-no-deps.txt models/*/requirements-no-deps.txt)
wanted=$(cat "${with_deps[@]}" "${no_deps[@]}" requirements-dev.txt | cksum)"${1:-}"
if [ "$(cat .venv/.installed 2>/dev/null)" != "$wanted" ]; then
  echo "installing packages into .venv (minutes, the first time) ..." >&2
  pip "${with_deps[@]/#/-r}"  # all at once: pip refuses what does not go together
  pip --no-deps "${no_deps[@]/#/-r}"
  if [ "${1:-}" = --dev ]; then pip -r requirements-dev.txt; fi
  echo "$wanted" > .venv/.installed
fi
