#!/bin/bash
# Trains an adapter of a small model by grpo on the quickstart's sums, answers with it, and merges
# it. The adapter's files are PEFT's.
# SPDX-License-Identifier: Apache-2.0
#
#   examples/lora/train.sh [DIRECTORY]      after tools/quickstart.sh, whose files are in
#                                           DIRECTORY (out/quickstart)
# Environment: LOCKSTEP, the program (build/bin/lockstep).
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-out/quickstart}
lockstep=${LOCKSTEP:-build/bin/lockstep}
[ -d "$out/sft/last" ] || {
  echo "train.sh: expected the files of tools/quickstart.sh in $out" >&2
  exit 2
}
step() { echo; echo "== $*"; }

step "1. grpo: pairs beside the model, and copies of its embedding and head, are trained"
$lockstep grpo --model "$out/sft/last" --tuner_type lora --lora_rank 16 \
  --modules_to_save embed_tokens lm_head \
  --dataset "$out/data/train.jsonl" --val_dataset "$out/data/test.jsonl" \
  --reward_funcs accuracy soft_overlong --soft_cache_length 4 --num_generations 8 \
  --per_device_train_batch_size 128 --max_completion_length 16 --temperature 1 --beta 0 \
  --learning_rate 1e-3 --weight_decay 0 --max_steps 200 --gradient_checkpointing false \
  --eval_on_start true --eval_steps 50 --num_generations_eval 8 --logging_steps 20 \
  --overwrite true --output_dir "$out/lora"
adapter=$out/lora/last
ls "$adapter"

step "2. the adapter merged into the model: another checkpoint, which needs no adapter"
rm -rf "$out/merged"
$lockstep export --model "$out/sft/last" --adapters "$adapter" --merge_lora true \
  --output_dir "$out/merged"

# The texts of the greedy answers to the first three held-out questions.
answers() {
  $lockstep infer "$@" --dataset <(head -n 3 "$out/data/test.jsonl") --temperature 0 \
    --max_new_tokens 16 --quiet true | grep -o '"text":"[^"]*"' | cut -d '"' -f 4
}
step "3. answers: without the adapter, with it, merged"
paste -d '|' <(answers --model "$out/sft/last") \
  <(answers --model "$out/sft/last" --adapters "$adapter") <(answers --model "$out/merged")
logged() { grep -o "\"$1\": [0-9.e-]*" "$out/lora/logging.jsonl" | "$2" -n 1 | cut -d ' ' -f 2; }
printf 'share of right answers: %.3f before, %.3f after\n' \
  "$(logged eval_rewards/accuracy/mean head)" "$(logged eval_rewards/accuracy/mean tail)"
