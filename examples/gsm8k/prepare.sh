#!/usr/bin/env bash
# Turns GSM8K's rows (question, answer with "#### N" at its end) into rows for grpo: the question as
# the user's message, the number as the solution.
# SPDX-License-Identifier: Apache-2.0
#
#   examples/gsm8k/prepare.sh test.jsonl > rows.jsonl
set -euo pipefail
file=${1:?usage: prepare.sh FILE.jsonl > rows.jsonl}
# Strings stay JSON as they are: what is quoted in the one is quoted in the other.
row='{"messages": [{"role": "user", "content": "\1"}], "solution": "\2"}'
sed -E 's/^\{"question": "(.*)", "answer": ".*#### ([^"]*)"\}$/'"$row"'/; t
  s/.*/prepare.sh: a row is not of the form {"question": …, "answer": … #### N}/; w /dev/stderr
  q 1' "$file"
