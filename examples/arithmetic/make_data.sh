#!/usr/bin/env bash
# Writes the demonstration's three files into a folder: small sums in several wordings.
#   sft.jsonl    conversations with a careless teacher: the right answer three times in ten, one too
#                many otherwise
#   train.jsonl  questions with their solutions, for grpo
#   test.jsonl   held-out questions: wordings of sums that are in neither of the other files
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
directory=${1:?usage: make_data.sh DIRECTORY}
mkdir -p "$directory"

awk -v dir="$directory" '
# A 31-bit linear congruential generator: the same rows on every machine, whatever its awk.
function draw(bound) {
  state = (state * 1103515245 + 12345) % 2147483648
  return int(state / 65536) % bound
}
function question(wording, a, b) {
  if (wording == 0) return "What is " a " + " b "?"
  if (wording == 1) return "Add " a " and " b "."
  if (wording == 2) return a " plus " b " is?"
  if (wording == 3) return "Sum: " a ", " b
  return "Compute " a "+" b "."
}
function user(text) { return "{\"role\": \"user\", \"content\": \"" text "\"}" }
BEGIN {
  state = 20250101
  for (a = 0; a < 10; a++) for (b = 0; b < 5; b++) for (w = 0; w < 5; w++) {
    text = question(w, a, b); solution = a + b
    row = "{\"messages\": [" user(text) "], \"solution\": \"" solution "\"}"
    if (draw(8) == 0) { print row > (dir "/test.jsonl"); continue }
    print row > (dir "/train.jsonl")
    for (copy = 0; copy < 10; copy++) {
      answer = copy < 3 ? solution : solution + 1
      reply = "{\"role\": \"assistant\", \"content\": \"<answer>" answer "</answer>\"}"
      print "{\"messages\": [" user(text) ", " reply "]}" > (dir "/sft.jsonl")
    }
  }
}'
