#!/bin/bash
# `lockstep tokenize` against tokenizers on 2,000 texts, with Qwen's real vocabulary of 151,643
# entries.
# SPDX-License-Identifier: Apache-2.0
#
#   tools/parity/tokenizer.sh PROGRAM
set -euo pipefail
cd "$(dirname "$0")/../.."
program=${1:?usage: tokenizer.sh PROGRAM}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
.deps/python/bin/python tools/golden/tiktoken_to_tokenizer.py \
  .deps/python/lib/python3*/site-packages/dashscope/resources/qwen.tiktoken "$folder/model"
.deps/python/bin/python tools/parity/tokenizer.py \
  --program "$program" --model "$folder/model" --count 2000
