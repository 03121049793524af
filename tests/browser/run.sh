#!/usr/bin/env bash
# The browser test: headless Chromium shops in a store of its own and watches it lose a primary.
#
#   tests/browser/run.sh                    about a minute; screenshots go to target/browser
#   tests/browser/run.sh --update-images    writes those that the documents show to docs/images
#   tests/browser/run.sh TestName...        only these, as unittest names them
#
# Installs what is missing, as root on Debian 12: chromium with a serif face, Python's venv, and the packages in
# requirements.txt.
set -euo pipefail
cd "$(dirname "$0")/../.."

wanted=""
command -v chromium >/dev/null || wanted+=" chromium"
command -v python3 >/dev/null || wanted+=" python3"
python3 -c "import ensurepip" 2>/dev/null || wanted+=" python3-venv"
[ -e /usr/share/fonts/opentype/urw-base35/P052-Roman.otf ] || wanted+=" fonts-urw-base35"
if [ -n "$wanted" ]; then
    apt-get update -q
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $wanted
fi

images=target/browser
if [ "${1-}" = --update-images ]; then
    images=docs/images
    shift
fi
mkdir -p "$images"
venv=target/browser-venv
# The list is part of the name of the mark, so that a changed list is installed.
mark=$venv/installed-$(sha256sum tests/browser/requirements.txt | cut -c 1-16)
if [ ! -e "$mark" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement tests/browser/requirements.txt
    touch "$mark"
fi

cargo build --locked --package quire
cargo build --locked --package tests --bin browser
QUIRE_IMAGES=$images target/debug/browser "$venv/bin/python" tests/browser/test_pages.py "$@"
