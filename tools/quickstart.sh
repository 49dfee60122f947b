#!/bin/bash
# Sets up, builds, and shows a small model learning: sft on a careless teacher's sums, then grpo
# until it gets them right.
# SPDX-License-Identifier: Apache-2.0
#
#   tools/quickstart.sh [DIRECTORY]      files go to DIRECTORY (out/quickstart), which is replaced
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-out/quickstart}

tools/setup.sh
cmake --preset release >/dev/null
ninja -C build --quiet lockstep

lockstep=build/bin/lockstep
started=$SECONDS
rm -rf "$out"
mkdir -p "$out"
step() { echo; echo "== $*"; }

step "1. data: sums in several wordings; the teacher is one off seven times in ten"
examples/arithmetic/make_data.sh "$out/data"
wc -l "$out"/data/*.jsonl

step "2. a new Qwen3.5 model: three gated-delta layers and one attention layer"
$lockstep new-model --like qwen3_5 --size tiny --output_dir "$out/model"

step "3. warm start: sft on the teacher's conversations"
$lockstep sft --model "$out/model" --tuner_type full --dataset "$out/data/sft.jsonl" \
  --output_dir "$out/sft" --per_device_train_batch_size 32 --learning_rate 2e-3 \
  --warmup_ratio 0.05 --weight_decay 0 --max_steps 500 --gradient_checkpointing false \
  --logging_steps 100

step "4. grpo: eight answers a question; a right one gets reward 1, one that goes on too long less"
$lockstep grpo --model "$out/sft/last" --tuner_type full --dataset "$out/data/train.jsonl" \
  --val_dataset "$out/data/test.jsonl" --reward_funcs accuracy soft_overlong \
  --soft_cache_length 4 --num_generations 8 --per_device_train_batch_size 128 \
  --max_completion_length 16 --temperature 1 --beta 0 --learning_rate 5e-4 --weight_decay 0 \
  --max_steps 400 --gradient_checkpointing false --eval_on_start true --eval_steps 50 \
  --num_generations_eval 8 --logging_steps 20 --output_dir "$out/grpo"

# The value of KEY in the first or last line of logging.jsonl that has it.
logged() { grep -o "\"$1\": [0-9.e-]*" "$out/grpo/logging.jsonl" | "$2" -n 1 | cut -d ' ' -f 2; }
# The texts of the greedy answers of a model to the first three held-out questions.
answers() {
  $lockstep infer --model "$1" --dataset <(head -n 3 "$out/data/test.jsonl") --temperature 0 \
    --max_new_tokens 16 --quiet true |
    grep -o '"text":"[^"]*"' | cut -d '"' -f 4
}

step "held-out questions, $((SECONDS - started)) s after the build"
printf '%-34s %10s %10s\n' "" before after
before=$(logged eval_rewards/accuracy/mean head)
after=$(logged eval_rewards/accuracy/mean tail)
printf '%-34s %10.3f %10.3f\n' "share of right answers" "$before" "$after"
printf '%-34s %10.1f %10.1f\n' "tokens of an answer" "$(logged eval_completions/mean_length head)" \
  "$(logged eval_completions/mean_length tail)"
difference=$(grep -o '"train/sampler_logprob_max_diff": [0-9.e-]*' "$out/grpo/logging.jsonl" |
  cut -d ' ' -f 2 | sort -g | tail -n 1)
printf '%-34s %21s\n' "largest sampler/trainer difference" "$difference"
echo
paste -d '|' <(head -n 3 "$out/data/test.jsonl" | grep -o '"content": "[^"]*"' | cut -d '"' -f 4) \
  <(answers "$out/sft/last") <(answers "$out/grpo/last") |
  awk -F '|' '{ printf "%-22s before: %-22s after: %s\n", $1, $2, $3 }'
echo
echo "the model:     $out/grpo/last (Hugging Face form: transformers loads it)"
echo "logs:          $out/grpo/logging.jsonl, completions.jsonl, runs/ (TensorBoard)"
echo "ask it:        $lockstep infer --model $out/grpo/last --temperature 0"
awk -v before="$before" -v after="$after" 'BEGIN { exit !(before < 0.4 && after > 0.8) }' || {
  echo "quickstart: expected the share of right answers to rise from under 0.4 to over 0.8," \
    "got $before to $after" >&2
  exit 1
}
