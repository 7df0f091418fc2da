#!/usr/bin/env bash
# pip cannot build mmcv 2.1.0, the last release that MMDetection 3.3 takes, on Python 3.13 or newer: setup.py runs its version
# file with exec() inside a function and reads the result from locals(), which exec() no longer fills (PEP 667).
#
# Seen on 2026-11-30 with Python 3.13.0 and 3.13.5, setuptools 81: KeyError: '__version__', before anything is compiled.
# Needs a python3.13 or newer: PYTHON names it. Fails when the behaviour has changed.
set -euo pipefail
python="${PYTHON:-python3.13}"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"$python" -c 'import sys; sys.exit(None if sys.version_info >= (3, 13) else "PYTHON must be 3.13 or newer")'
"$python" -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install -q 'setuptools<82' wheel  # it imports pkg_resources
# Without its operators, so that no torch is needed.
if MMCV_WITH_OPS=0 pip install --no-deps --no-build-isolation --no-binary mmcv mmcv==2.1.0 > "$folder/messages" 2>&1; then
    echo 'changed: mmcv 2.1.0 installs' >&2
    exit 1
fi
grep -m 1 "KeyError: '__version__'" "$folder/messages" || { echo 'changed: another message' >&2; cat "$folder/messages"; exit 1; }
