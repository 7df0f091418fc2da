#!/usr/bin/env bash
# mkdocstrings 1.0.6, the newest for Python 3.10, and pymdown-extensions 12.3 are installed together by pip without a word, as
# the former asks for any release of the latter from 6.3 on; a page that documents a module then ends the build with a TypeError:
# pymdownx.highlight.Highlight takes the Markdown instance as its first argument since release 12.
#
# Seen on 2026-11-30 (Linux x86_64, Python 3.10 and 3.11): TypeError: Highlight.__init__() missing 1 required positional argument: 'md'
# With pymdown-extensions below 12 the same page builds. Fails when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip --disable-pip-version-check -q "$@"; }
pip install mkdocs==1.6.1 mkdocstrings==1.0.6 mkdocstrings-python==2.0.9 pymdown-extensions==12.3
mkdir "$folder/docs"
echo '::: json.tool' > "$folder/docs/index.md"
printf 'site_name: a\nplugins: [mkdocstrings]\n' > "$folder/mkdocs.yml"
build() { (cd "$folder" && venv/bin/python -W ignore -m mkdocs build --quiet 2> messages); }

if build; then
    echo 'changed: it builds' >&2
    exit 1
fi
tail -n 1 "$folder/messages"
grep -q "TypeError: Highlight.__init__() missing 1 required positional argument: 'md'" "$folder/messages" \
    || { echo 'changed: another message' >&2; exit 1; }
pip install 'pymdown-extensions<12'
build
echo "builds with pymdown-extensions $("$folder/venv/bin/python" -c 'import importlib.metadata as m; print(m.version("pymdown-extensions"))')"
