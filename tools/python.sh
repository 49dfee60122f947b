#!/bin/bash
# Makes .deps/python: the libraries that the tests and benchmarks compare with. The product needs
# none of it.
# SPDX-License-Identifier: Apache-2.0
#
# Idempotent: done again only when tools/python-requirements.txt has changed.
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=tools/python-requirements.txt
stamp=.deps/python/requirements.txt
mkdir -p .deps
exec 9>.deps/.python.lock
flock 9
cmp -s $requirements $stamp && exit 0
echo "python: installing $requirements into .deps/python (about 6 GB)" >&2
[ -x .deps/python/bin/python ] || python3 -m venv .deps/python
.deps/python/bin/python -m pip install --quiet --disable-pip-version-check -r $requirements
cp $requirements $stamp
