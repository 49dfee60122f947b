#!/bin/bash
# Makes .deps/engines: the engines that bench/engines/run.py compares with (about 6 GB).
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "$0")/../.."

requirements=bench/engines/requirements.txt
stamp=.deps/engines/requirements.txt
cmp -s $requirements $stamp && exit 0
echo "engines: installing $requirements into .deps/engines" >&2
mkdir -p .deps
[ -x .deps/engines/bin/python ] || python3 -m venv .deps/engines
.deps/engines/bin/python -m pip install --quiet --disable-pip-version-check -r $requirements
cp $requirements $stamp
