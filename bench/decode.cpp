// Our side of bench/engines: tokens per second of the sampler, over the prompts that the other
// engines get.
// SPDX-License-Identifier: Apache-2.0
//
//   lockstep_decode TASK    a JSON file: model, dtype, prompts (lists of ids), batches,
//                           new_tokens, repeats; temperature, 0 unless it says otherwise
#include <chrono>
#include <fstream>

#include <fmt/format.h>

#include "base/heap.h"
#include "base/json.h"
#include "rollout/engine.h"
#include "tensor/aten.h"
#include "train/hf_checkpoint.h"

namespace lockstep {
namespace {

int run(const Json& task) {
  const auto dtype =
      task["dtype"] == "bfloat16" ? model::WeightDtype::kBFloat16 : model::WeightDtype::kFloat32;
  const auto loaded = train::load_model(task["model"].get<std::string>(), dtype);
  rollout::GenerationSettings settings;
  settings.sampling.temperature = task.value("temperature", 0.0);
  settings.max_new_tokens = task["new_tokens"];
  settings.ignore_eos = true;
  Json seconds = Json::object();
  for (const int64_t batch : task["batches"]) {
    rollout::Engine engine(*loaded.weights, {.max_num_seqs = batch});
    std::vector<rollout::GenerationRequest> requests;
    for (int64_t i = 0; i < batch; ++i)
      requests.push_back({.prompt = task["prompts"][static_cast<size_t>(i)]});
    Json times = Json::array();
    for (int64_t i = 0; i <= task["repeats"].get<int64_t>(); ++i) {  // the first warms up
      const auto begin = std::chrono::steady_clock::now();
      engine.generate(requests, settings);
      const auto end = std::chrono::steady_clock::now();
      if (i) times.push_back(std::chrono::duration<double>(end - begin).count());
    }
    seconds[std::to_string(batch)] = times;
  }
  fmt::print("{}\n", Json{{"seconds", seconds}}.dump());
  return 0;
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  lockstep::keep_freed_memory();
  std::ifstream file(argv[1]);
  return lockstep::run(lockstep::Json::parse(file));
}
