#!/bin/bash
# Writes the data of the calculator example: sums that are too large to be learned by heart.
# SPDX-License-Identifier: Apache-2.0
#
#   examples/calculator/make_data.sh DIRECTORY
#
# sft.jsonl: conversations of a teacher who guesses one time in five, and mistypes the last digit
# three times in four when the calculator is asked; train.jsonl, test.jsonl: questions with their
# solutions; tools.json: what prompts say of the calculator.
set -euo pipefail
mkdir -p "$1"

cat >"$1/tools.json" <<'EOF'
[{"type": "function", "function": {"name": "add", "parameters":
  {"type": "object", "properties": {"sum": {"type": "string"}}}}}]
EOF

# rows COUNT SEED TAUGHT: questions, with a teacher's answers if TAUGHT is 1.
rows() {
  awk -v count="$1" -v seed="$2" -v taught="$3" -v tools="$(tr '\n' ' ' <"$out/tools.json")" '
    function message(role, content) {
      return sprintf("{\"role\": \"%s\", \"content\": \"%s\"}", role, content)
    }
    function said(number) { return message("assistant", "<answer>" number "</answer>") }
    BEGIN {
      srand(seed)
      for (i = 0; i < count; ++i) {
        a = 10 + int(90 * rand()); b = 10 + int(90 * rand())
        question = message("user", a "+" b "=")
        if (!taught) {
          printf "{\"messages\": [%s], \"solution\": \"%d\"}\n", question, a + b
          continue
        }
        if (rand() < 0.8) {
          typed = rand() < 0.75 ? b - b % 10 + int(10 * rand()) : b
          call = sprintf("{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": " \
                         "[{\"type\": \"function\", \"function\": {\"name\": \"add\", " \
                         "\"arguments\": {\"sum\": \"%d+%d\"}}}]}", a, typed)
          answer = call ", " message("tool", a + typed) ", " said(a + typed)
        } else {
          answer = said(20 + int(180 * rand()))
        }
        printf "{\"messages\": [%s, %s], \"tools\": %s}\n", question, answer, tools
      }
    }'
}

out=$1
rows 6000 1 1 >"$out/sft.jsonl"
rows 4000 2 0 >"$out/train.jsonl"
rows 64 3 0 >"$out/test.jsonl"
