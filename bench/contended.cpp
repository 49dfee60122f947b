// How much of its speed the program keeps beside another program that is busy all the time: threads
// that wait for each other must not spin while one of them is not scheduled.
// SPDX-License-Identifier: Apache-2.0
//
//   lockstep_contended [part of a case's name …]
//
// Rounds alone and rounds beside a busy process take turns. A share is the median rate beside it
// over the median rate alone. On two processors a fair share of them is three quarters.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include <fmt/format.h>

#include "base/heap.h"
#include "base/json.h"
#include "bench/bench_model.h"
#include "bench/processor_peak.h"
#include "rollout/engine.h"
#include "train/trainer.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

/// A process that computes until it is destroyed.
class BusyProcess {
 public:
  BusyProcess() : pid_(fork()) {
    if (pid_ == 0)
      for (std::atomic<uint64_t> i = 0;;) i.fetch_add(1, std::memory_order_relaxed);
  }
  ~BusyProcess() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  BusyProcess(const BusyProcess&) = delete;
  BusyProcess& operator=(const BusyProcess&) = delete;

 private:
  pid_t pid_;
};

double seconds_of(const std::function<void()>& work) {
  const auto begin = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

constexpr double kAsked = 0.45;

class Contended {
 public:
  explicit Contended(std::vector<std::string> wanted) : wanted_(std::move(wanted)) {}

  /// `make` builds what is needed and returns a round: its work, and the seconds that it took.
  void run(const std::string& name, const std::function<std::function<double()>()>& make) {
    const auto is_wanted = [&](const std::string& part) {
      return name.find(part) != std::string::npos;
    };
    if (!wanted_.empty() && std::none_of(wanted_.begin(), wanted_.end(), is_wanted)) return;
    const std::function<double()> round = make();
    round();  // the first one warms up
    constexpr int kRounds = 5;
    std::vector<double> alone, beside;
    for (int i = 0; i < kRounds; ++i) {
      alone.push_back(round());
      const BusyProcess busy;
      beside.push_back(round());
    }
    const double share = median(alone) / median(beside);
    fmt::print(stderr, "{:36} {:8.3f} s alone  {:8.3f} s beside  {:4.2f} (asked {:4.2f}){}\n", name,
               median(alone), median(beside), share, kAsked, share < kAsked ? "  missed" : "");
    Json line;
    line["case"] = name;
    line["alone_s"] = median(alone);
    line["beside_s"] = median(beside);
    line["share"] = share;
    fmt::print("{}\n", line.dump());
    std::fflush(stdout);
  }

 private:
  std::vector<std::string> wanted_;
};

void run_decode(Contended& contended, model::Family family, model::WeightDtype dtype) {
  for (const int64_t batch : {1, 8, 64})
    contended.run(fmt::format("{} 100m {}, decode {}", enum_name(family), enum_name(dtype), batch),
                  [&]() -> std::function<double()> {
                    const auto weights = std::shared_ptr(
                        bench::random_weights(family, model::ModelSize::k100m, dtype));
                    return [weights, batch] {
                      rollout::Engine engine(*weights, {.max_num_seqs = batch, .cache_memory = 1});
                      rollout::GenerationSettings settings;
                      settings.max_new_tokens = batch == 64 ? 16 : 32;
                      settings.ignore_eos = true;
                      const auto requests = bench::random_requests(batch, 16, *weights);
                      return seconds_of([&] { engine.generate(requests, settings); });
                    };
                  });
}

void run_training(Contended& contended, model::Family family, model::WeightDtype dtype) {
  contended.run(
      fmt::format("{} 100m {}, forward and backward", enum_name(family), enum_name(dtype)),
      [&]() -> std::function<double()> {
        const auto weights =
            std::shared_ptr(bench::random_weights(family, model::ModelSize::k100m, dtype));
        const auto trainer = std::make_shared<train::Trainer>(
            *weights, train::TrainerOptions{.gradient_checkpointing = false});
        std::vector<train::Sample> samples;
        for (uint64_t i = 0; i < 4; ++i) {
          samples.push_back({bench::random_prompt(256, i, *weights), std::vector<uint8_t>(256, 1)});
          samples.back().mask[0] = 0;
        }
        return [weights, trainer, samples] {
          return seconds_of([&] {
            trainer->gradients(samples, {},
                               [](int64_t, const train::SampleScores&, train::SampleGradient d) {
                                 std::fill(d.logprobs.begin(), d.logprobs.end(), 1e-3F);
                               });
          });
        };
      });
}

/// A step of `lockstep grpo`, the program that was built beside this one: the median of a few.
class GrpoStep {
 public:
  GrpoStep() : folder_(fs::temp_directory_path() / fmt::format("lockstep_contended.{}", getpid())) {
    fs::create_directories(folder_);
    run("new-model", "--like qwen3_5 --size 10m --output_dir " + path("model"));
    std::ofstream rows(path("rows.jsonl"));
    for (int i = 0; i < 64; ++i)
      rows << R"({"messages":[{"role":"user","content":"What is )" << i
           << R"( + 1?"}],"solution":")" << i + 1 << "\"}\n";
  }
  ~GrpoStep() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  GrpoStep(const GrpoStep&) = delete;
  GrpoStep& operator=(const GrpoStep&) = delete;

  double seconds() const {
    run("grpo", fmt::format("--model {} --tuner_type full --dataset {} --reward_funcs accuracy "
                            "--num_generations 8 --per_device_train_batch_size 32 "
                            "--max_completion_length 48 --max_steps 5 --beta 0 --save_strategy no "
                            "--quiet true --overwrite true --output_dir {}",
                            path("model"), path("rows.jsonl"), path("run")));
    std::ifstream log(path("run") + "/logging.jsonl");
    std::vector<double> steps;
    for (std::string line; std::getline(log, line);) {
      const Json row = Json::parse(line);
      if (row.contains("step_time")) steps.push_back(row["step_time"]);
    }
    if (steps.size() < 2) throw std::runtime_error("grpo logged no steps");
    steps.erase(steps.begin());  // the heap grows
    return median(steps);
  }

 private:
  std::string path(const char* name) const { return (folder_ / name).string(); }
  static void run(const char* command, const std::string& flags) {
    const fs::path program =
        fs::canonical("/proc/self/exe").parent_path().parent_path() / "bin" / "lockstep";
    const std::string line =
        fmt::format("'{}' {} {} >/dev/null 2>&1", program.string(), command, flags);
    if (std::system(line.c_str()) != 0) throw std::runtime_error(line);
  }

  fs::path folder_;
};

void run_grpo(Contended& contended) {
  contended.run("qwen3_5 10m bfloat16, grpo step", []() -> std::function<double()> {
    const auto step = std::make_shared<GrpoStep>();
    return [step] { return step->seconds(); };
  });
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  lockstep::bench::choose_vector_target();
  lockstep::keep_freed_memory();
  lockstep::Contended contended({argv + 1, argv + argc});
  for (const auto family : {lockstep::model::Family::kQwen3, lockstep::model::Family::kQwen3_5})
    for (const auto dtype :
         {lockstep::model::WeightDtype::kFloat32, lockstep::model::WeightDtype::kBFloat16}) {
      lockstep::run_decode(contended, family, dtype);
      lockstep::run_training(contended, family, dtype);
    }
  lockstep::run_grpo(contended);
}
