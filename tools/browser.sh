#!/bin/bash
# Installs the browser that tests/browser looks at pages with, where that can be done without asking
# anybody: Debian's chromium, 395 MB and about ten seconds. The product needs no browser.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail

has_browser() { command -v chromium chromium-browser google-chrome >/dev/null; }
has_browser && exit 0
as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
if command -v apt-get >/dev/null && "${as_root[@]}" true 2>/dev/null; then
  echo "browser: installing chromium" >&2
  "${as_root[@]}" apt-get update -qq || true
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
    --no-install-recommends chromium >/dev/null || true
fi
has_browser ||
  echo "browser: NO CHROMIUM, AND IT CANNOT BE INSTALLED: the pages are not looked at" >&2
