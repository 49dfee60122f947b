#!/bin/bash
# The house rules: format, layers, function lengths, what no file may hold, and whether the picture
# of the folders is true. Changes nothing.
# SPDX-License-Identifier: Apache-2.0
set -uo pipefail
cd "$(dirname "$0")/.."

status=0
fail() {
  echo "check: $1" >&2
  status=1
}

check_format() {
  command -v clang-format-14 >/dev/null || {
    fail "expected clang-format-14, got none (run tools/setup.sh)"
    return
  }
  # The errors name each place; one line a file is enough here.
  local files
  files=$(find src tests bench fuzz -regex '.*\.\(h\|cpp\|cu\|cuh\)' -print0 2>/dev/null |
    xargs -0 -r clang-format-14 --dry-run -Werror 2>&1 |
    sed -n 's/^\([^:]*\):[0-9]*:[0-9]*: error.*/\1/p' | sort -u)
  [ -z "$files" ] || fail "not formatted (clang-format-14 -i):"$'\n'"$files"
}

check_format
python3 tools/check_layers.py || status=1
python3 tools/check_functions.py || status=1
python3 tools/check_rules.py || status=1
python3 tools/draw_house.py --check || status=1
[ $status -ne 0 ] || echo "check: house rules hold"
exit $status
