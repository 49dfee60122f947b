#!/bin/bash
# Teaches a small model to use a calculator: sft on a teacher who mistypes, then grpo until the
# model asks for the sum of the question and repeats what it reads.
# SPDX-License-Identifier: Apache-2.0
#
#   examples/calculator/run.sh PROGRAM DIRECTORY [colocate|server]
#
# PROGRAM is lockstep; files go to DIRECTORY, whose sft model is used again if it is there.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
lockstep=$1
out=$2
mode=${3:-colocate}
mkdir -p "$out"
"$here/make_data.sh" "$out/data"

if [[ ! -e $out/sft/last ]]; then
  "$lockstep" new-model --like qwen3 --size tiny --output_dir "$out/model" --overwrite true
  "$lockstep" sft --model "$out/model" --tuner_type full --dataset "$out/data/sft.jsonl" \
    --output_dir "$out/sft" --overwrite true --loss_scale default \
    --per_device_train_batch_size 32 --learning_rate 2e-3 --warmup_ratio 0.05 --weight_decay 0 \
    --max_steps 500 --gradient_checkpointing false --logging_steps 100
fi

sampler=()
if [[ $mode == server ]]; then
  "$lockstep" rollout --model "$out/sft/last" --port 0 >"$out/server.log" 2>&1 &
  server=$!
  trap 'kill $server' EXIT
  for _ in $(seq 300); do
    grep -q "ready at" "$out/server.log" && break
    kill -0 $server
    sleep 0.1
  done
  url=$(grep -o "ready at http://[0-9.:]*" "$out/server.log" | cut -d ' ' -f 3)
  sampler=(--rollout_mode server --rollout_server "$url")
fi

"$lockstep" grpo --model "$out/sft/last" --tuner_type full --dataset "$out/data/train.jsonl" \
  --val_dataset "$out/data/test.jsonl" --reward_funcs accuracy \
  --tools "add=program:$here/calculator.sh" --tool_schemas "$out/data/tools.json" \
  --max_turns 3 --max_tool_response_length 16 --num_generations 8 \
  --per_device_train_batch_size 64 --max_completion_length 48 --temperature 1 --beta 0 \
  --learning_rate 5e-4 --weight_decay 0 --max_steps "${STEPS:-200}" \
  --gradient_checkpointing false --eval_on_start true --eval_steps 50 --num_generations_eval 4 \
  --logging_steps 10 --output_dir "$out/grpo-$mode" --overwrite true "${sampler[@]}"

# The value of KEY in the first or last line of logging.jsonl that has it.
logged() {
  grep -o "\"$1\": [0-9.e-]*" "$out/grpo-$mode/logging.jsonl" | "$2" -n 1 | cut -d ' ' -f 2
}
before=$(logged eval_rewards/accuracy/mean head)
after=$(logged eval_rewards/accuracy/mean tail)
echo "share of right answers to held-out questions: $before before, $after after"
awk -v before="$before" -v after="$after" 'BEGIN { exit !(before < 0.3 && after > 0.8) }' || {
  echo "expected it to rise from under 0.3 to over 0.8" >&2
  exit 1
}
