// What a run logs is worked out again from outside: from its recorded completions, from what the
// program scores them at, and from formulas written down here once more.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>
#include <iterator>
#include <map>
#include <numbers>
#include <numeric>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::StartsWith;

using Values = std::vector<double>;

double mean_of(const Values& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

/// With n - 1 below the sum.
double deviation_of(const Values& values) {
  if (values.size() < 2) return 0;
  const double mean = mean_of(values);
  double sum = 0;
  for (const double value : values) sum += std::pow(value - mean, 2);
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
}

double largest(const Values& values) { return *std::max_element(values.begin(), values.end()); }
double smallest(const Values& values) { return *std::min_element(values.begin(), values.end()); }

/// The words of a text with blanks between them.
Arguments words_of(const std::string& text) {
  std::istringstream stream(text);
  return {std::istream_iterator<std::string>(stream), {}};
}

/// One completion as completions.jsonl tells it, and what the program scores it at.
struct Recorded {
  double reward = 0, format = 0, overlong = 0, advantage = 0;
  std::vector<int64_t> token_ids;
  bool is_cut = false;
  /// [token] of the policy that sampled it, of the reference model, and the policy's entropy.
  Values policy, reference, entropy;
};

constexpr int kGroup = 4;
constexpr double kTemperature = 0.7, kBeta = 0.2, kFormatWeight = 0.5, kOverlongWeight = 2;

class LoggedMetrics : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new TempDir;
    const std::string model = new_model(*shared_, "model", {"--like", "qwen3_5"});
    run_well({"grpo", "--model", model, "--tuner_type", "full", "--dataset",
              write_rows(*shared_, "rows.jsonl", sum_rows(8)), "--output_dir", run_of(*shared_),
              "--reward_funcs", "format", "soft_overlong", "--reward_weights",
              std::to_string(kFormatWeight), std::to_string(kOverlongWeight), "--soft_max_length",
              "9", "--soft_cache_length", "8", "--max_completion_length", "9", "--num_generations",
              std::to_string(kGroup), "--per_device_train_batch_size", "8",
              // Some completions end at a letter, so that lengths and rewards differ.
              "--stop_words", "h", "--temperature", std::to_string(kTemperature), "--beta",
              std::to_string(kBeta), "--log_entropy", "true", "--learning_rate", "3e-3",
              "--max_steps", "4", "--save_steps", "1", "--logging_steps", "1", "--threads", "1",
              "--quiet"});
    for (int step = 1; step <= 4; ++step) steps_.push_back(recorded_step(model, step));
    log_ = read_rows(fs::path(run_of(*shared_)) / "logging.jsonl");
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
    steps_.clear();
  }

  /// Trains the model in `run` without saving; `flags` are further words with blanks between them.
  static void run_short(const std::string& command, const fs::path& run, const std::string& flags) {
    run_well(Arguments{command, "--model", (*shared_ / "model").string(), "--output_dir",
                       run.string(), "--tuner_type", "full", "--save_strategy", "no", "--threads",
                       "1", "--quiet"} +
             words_of(flags));
  }

  static std::string run_of(const TempDir& folder) { return (folder / "run").string(); }

  /// The completions of a step, scored by the model as it was before the step and by the first.
  static std::vector<Recorded> recorded_step(const std::string& model, int step) {
    const Json line = read_rows(fs::path(run_of(*shared_)) / "completions.jsonl")
                          .at(static_cast<size_t>(step - 1));
    std::vector<Json> texts, rows;
    for (const Json& prompt : line.at("prompt")) texts.push_back({{"text", prompt}});
    const auto prompts =
        parse_rows(run_well({"tokenize", "--model", model, "--dataset",
                             write_rows(*shared_, "texts.jsonl", texts), "--quiet"})
                       .out);
    std::vector<Recorded> all(prompts.size());
    for (size_t i = 0; i < all.size(); ++i) {
      EXPECT_EQ(line["step"][i], std::to_string(step));
      all[i].token_ids = line.at("token_ids")[i].get<std::vector<int64_t>>();
      all[i].is_cut = line.at("finish_reason")[i] == "length";
      all[i].format = line.at("Format")[i];
      all[i].overlong = line.at("SoftOverlong")[i];
      all[i].advantage = line.at("advantages")[i];
      all[i].reward = kFormatWeight * all[i].format + kOverlongWeight * all[i].overlong;
      Json ids = prompts[i]["ids"];
      for (const int64_t id : all[i].token_ids) ids.push_back(id);
      rows.push_back({{"input_ids", ids}});
    }
    const std::string path = write_rows(*shared_, "scored.jsonl", rows);
    const auto scores = [&](const std::string& by) {
      return parse_rows(
          run_well({"score", "--model", by, "--dataset", path, "--temperature",
                    std::to_string(kTemperature), "--entropy", "true", "--threads", "1", "--quiet"})
              .out);
    };
    const auto now =
                   scores(step == 1 ? model
                                    : run_of(*shared_) + "/checkpoint-" + std::to_string(step - 1)),
               first = scores(model);
    for (size_t i = 0; i < all.size(); ++i)
      for (size_t t = rows[i]["input_ids"].size() - all[i].token_ids.size();
           t < rows[i]["input_ids"].size(); ++t) {
        // Printed are the shortest digits that read back to the same float.
        all[i].policy.push_back(now[i]["logprobs"][t].get<float>());
        all[i].entropy.push_back(now[i]["entropy"][t].get<float>());
        all[i].reference.push_back(first[i]["logprobs"][t].get<float>());
      }
    return all;
  }

  /// One value of each completion of a step.
  template <class Get>
  static Values each(const std::vector<Recorded>& step, Get get) {
    Values values;
    for (const Recorded& one : step) values.push_back(get(one));
    return values;
  }
  /// The k3 estimate of the KL divergence at each token.
  static Values kl_of(const Recorded& one) {
    Values kl;
    for (size_t t = 0; t < one.policy.size(); ++t) {
      const double x = one.reference[t] - one.policy[t];
      kl.push_back(std::exp(x) - x - 1);
    }
    return kl;
  }
  static void expect_logged(const Json& line, const std::string& name, double value) {
    ASSERT_TRUE(line.contains(name)) << name;
    // Values are logged with eight decimals.
    EXPECT_NEAR(line.at(name).get<double>(), value, 1e-8 + 1e-9 * std::abs(value)) << name;
  }

  static inline TempDir* shared_ = nullptr;
  static inline std::vector<std::vector<Recorded>> steps_;
  static inline std::vector<Json> log_;
};

TEST_F(LoggedMetrics, RewardsAndAdvantagesFollowFromTheRecordedValues) {
  for (size_t s = 0; s < steps_.size(); ++s) {
    const auto& step = steps_[s];
    Values deviations, rewards = each(step, [](const Recorded&one) { return one.reward; });
    int flat = 0;
    for (size_t first = 0; first < step.size(); first += kGroup) {
      const Values group(rewards.begin() + long(first), rewards.begin() + long(first) + kGroup);
      deviations.push_back(deviation_of(group));
      flat += deviations.back() == 0;
      for (size_t i = 0; i < kGroup; ++i)
        EXPECT_NEAR(step[first + i].advantage,
                    (group[i] - mean_of(group)) / (deviations.back() + 1e-4), 1e-9);
    }
    const Json& line = log_[s];
    expect_logged(line, "reward", mean_of(rewards));
    expect_logged(line, "reward_std", mean_of(deviations));
    expect_logged(line, "frac_reward_zero_std", flat / double(deviations.size()));
    const Values overlong = each(step, [](const Recorded& one) { return one.overlong; });
    for (const char* name : {"SoftOverlong", "soft_overlong"}) {
      expect_logged(line, std::string("rewards/") + name + "/mean", mean_of(overlong));
      expect_logged(line, std::string("rewards/") + name + "/std", deviation_of(overlong));
    }
  }
  // Something was there to be told apart.
  EXPECT_GT(log_[0].at("reward_std").get<double>(), 0);
}

TEST_F(LoggedMetrics, LengthsFollowFromTheRecordedTokens) {
  double tokens = 0;
  int64_t num_cut = 0, num_ended = 0;
  for (size_t s = 0; s < steps_.size(); ++s) {
    const Json& line = log_[s];
    const auto length = [](const Recorded& one) { return double(one.token_ids.size()); };
    const Values lengths = each(steps_[s], length);
    expect_logged(line, "completions/mean_length", mean_of(lengths));
    expect_logged(line, "completions/min_length", smallest(lengths));
    expect_logged(line, "completions/max_length", largest(lengths));
    expect_logged(line, "completions/clipped_ratio",
                  mean_of(each(steps_[s], [](const Recorded& one) { return one.is_cut; })));
    Values ended;
    for (const Recorded& one : steps_[s]) {
      EXPECT_LE(one.token_ids.size(), 9u);
      EXPECT_TRUE(!one.is_cut || one.token_ids.size() == 9u);
      if (!one.is_cut) ended.push_back(length(one));
    }
    num_ended += std::ssize(ended);
    num_cut += std::ssize(lengths) - std::ssize(ended);
    if (!ended.empty()) {
      expect_logged(line, "completions/mean_terminated_length", mean_of(ended));
      expect_logged(line, "completions/min_terminated_length", smallest(ended));
      expect_logged(line, "completions/max_terminated_length", largest(ended));
    }
    const double before = tokens;
    tokens = line.at("num_tokens");
    // A step works on what it samples: the rate is its tokens over its time.
    EXPECT_NEAR(line.at("tokens_per_second").get<double>() * line.at("step_time").get<double>(),
                tokens - before, 1e-3 * (tokens - before));
  }
  // Both kinds were there to be told apart.
  EXPECT_GT(num_cut, 0);
  EXPECT_GT(num_ended, 0);
}

TEST_F(LoggedMetrics, KlEntropyAndLossFollowFromTheScoredRows) {
  for (size_t s = 0; s < steps_.size(); ++s) {
    const auto& step = steps_[s];
    const Json& line = log_[s];
    const Json recorded = read_rows(fs::path(run_of(*shared_)) / "completions.jsonl").at(s);
    Values kl, entropies, means;
    double loss = 0;
    for (const Recorded& one : step) {
      const Values own = kl_of(one);
      kl.insert(kl.end(), own.begin(), own.end());
      entropies.insert(entropies.end(), one.entropy.begin(), one.entropy.end());
      means.push_back(mean_of(one.entropy));
      EXPECT_NEAR(recorded.at("entropy")[means.size() - 1].get<double>(), means.back(), 1e-12);
      // On policy every ratio is one.
      loss += (-one.advantage + kBeta * mean_of(own)) / double(step.size());
    }
    expect_logged(line, "kl", mean_of(kl));
    expect_logged(line, "entropy", mean_of(entropies));
    expect_logged(line, "entropy/mean", mean_of(means));
    expect_logged(line, "entropy/max", largest(means));
    expect_logged(line, "entropy/min", smallest(means));
    expect_logged(line, "loss", loss);
    EXPECT_EQ(line.at("train/sampler_logprob_max_diff"), 0.0);
  }
  EXPECT_EQ(log_[0].at("kl"), 0.0);
  EXPECT_GT(log_[3].at("kl").get<double>(), 1e-6);  // the policy did move
}

TEST_F(LoggedMetrics, TheTimeOfAStepIsTheTimeOfItsPhases) {
  for (size_t s = 0; s < steps_.size(); ++s) {
    const Json& line = log_[s];
    double sum = 0;
    for (const char* name : {"rollout", "reward", "score", "train"})
      sum += line.at(std::string("time/") + name).get<double>();
    const double whole = line.at("step_time");
    EXPECT_LE(sum, whole * (1 + 1e-6));
    EXPECT_GT(sum, whole * 0.9);
    EXPECT_GT(line.at("time/rollout").get<double>(), 0);
    // A save belongs to the line after it.
    EXPECT_EQ(line.at("time/save").get<double>() > 0, s > 0) << s;
  }
}

/// Rounds of sampling as completions.jsonl holds them, and what is to be logged of them together.
class Rounds {
 public:
  explicit Rounds(size_t group) : group_(group) {}
  void add(const Json& line) {
    const auto rewards = line.at("SoftOverlong").get<Values>();
    for (size_t i = 0; i < rewards.size(); ++i) {
      rewards_.push_back(rewards[i]);
      lengths_.push_back(double(line.at("token_ids")[i].size()));
      cut_.push_back(line.at("finish_reason")[i] == "length");
    }
  }
  std::map<std::string, double> metrics() const {
    Values deviations;
    for (auto at = rewards_.begin(); at != rewards_.end(); at += long(group_))
      deviations.push_back(deviation_of(Values(at, at + long(group_))));
    return {{"reward", mean_of(rewards_)},
            {"reward_std", mean_of(deviations)},
            {"completions/mean_length", mean_of(lengths_)},
            {"completions/min_length", smallest(lengths_)},
            {"completions/max_length", largest(lengths_)},
            {"completions/clipped_ratio", mean_of(cut_)}};
  }

 private:
  size_t group_;
  Values rewards_, lengths_, cut_;
};

/// Three micro-steps an epoch, two a step: of the two steps of each line and epoch, the second has
/// one micro-step. Each line is followed by an evaluation.
TEST_F(LoggedMetrics, ALineOfSeveralStepsHasTheirMeansAndNothingOfAnEvaluation) {
  const fs::path run = *shared_ / "several";
  run_short(
      "grpo", run,
      "--val_dataset " + write_rows(*shared_, "five.jsonl", sum_rows(5)) +
          " --reward_funcs soft_overlong --soft_max_length 9 --soft_cache_length 8 --beta 0"
          " --max_completion_length 9 --stop_words h --num_generations 2 --num_generations_eval 4"
          " --per_device_train_batch_size 4 --gradient_accumulation_steps 2"
          " --steps_per_generation 1 --max_steps 4 --logging_steps 2 --logging_first_step false"
          " --eval_strategy steps --eval_steps 2 --learning_rate 1e-3 --dataset " +
          write_rows(*shared_, "seven.jsonl", sum_rows(7)));
  const auto log = read_rows(run / "logging.jsonl"), rounds = read_rows(run / "completions.jsonl");
  ASSERT_EQ(log.size(), 5u);
  ASSERT_EQ(rounds.size(), 8u);
  double tokens = 0;
  for (size_t half = 0; half < 2; ++half) {
    const Json &trained = log[2 * half], &evaluated = log[2 * half + 1];
    Rounds sampled(2), held_out(4);
    for (size_t i = 0; i < 3; ++i) sampled.add(rounds[4 * half + i]);
    held_out.add(rounds[4 * half + 3]);
    for (const auto& [name, value] : sampled.metrics()) expect_logged(trained, name, value);
    for (const auto& [name, value] : held_out.metrics())
      expect_logged(evaluated, "eval_" + name, value);
    for (const Json* line : {&trained, &evaluated})
      EXPECT_DOUBLE_EQ(line->at("epoch").get<double>(), double(half + 1));
    for (const auto& [name, value] : evaluated.items())
      EXPECT_TRUE(name.starts_with("eval_") || name == "epoch" || name == "global_step/max_steps")
          << name;
    EXPECT_GT(evaluated.at("eval_runtime").get<double>(), 0);
    const double before = tokens;
    tokens = trained.at("num_tokens");
    // The rate of the steps together, not the mean of their rates.
    EXPECT_NEAR(
        2 * trained.at("tokens_per_second").get<double>() * trained.at("step_time").get<double>(),
        tokens - before, 1e-5 * (tokens - before));
  }
}

/// Two micro-steps of two rows a step, of ten rows: an epoch has two whole steps and half a one.
TEST_F(LoggedMetrics, LossesOfSftAreMeansOverTokensAndEpochsCountMicroSteps) {
  const fs::path run = *shared_ / "sft";
  const std::string model = (*shared_ / "model").string();
  const std::vector<Json> rows = id_rows({4, 11, 7, 15, 5, 9, 6, 13, 8, 10}, 300, 3),
                          held_out = id_rows({3, 12, 6}, 300, 4);
  const std::string train = write_rows(*shared_, "ids.jsonl", rows),
                    validation = write_rows(*shared_, "held_out.jsonl", held_out);
  run_short("sft", run,
            "--dataset " + train + " --val_dataset " + validation +
                " --dataset_shuffle false --per_device_train_batch_size 2 --max_steps 4"
                " --gradient_accumulation_steps 2 --logging_steps 1 --eval_strategy steps"
                " --eval_steps 4 --eval_on_start true --learning_rate 1e-3");
  const auto loss_of = [&](const std::string& path, size_t count) {
    const auto scores = parse_rows(
        run_well({"score", "--model", model, "--dataset", path, "--threads", "1", "--quiet"}).out);
    double sum = 0;
    int64_t tokens = 0;
    for (size_t i = 0; i < count; ++i)
      for (const Json& logprob : scores[i].at("logprobs"))
        if (logprob.is_number()) {
          sum -= logprob.get<float>();
          ++tokens;
        }
    return sum / double(tokens);
  };
  const auto log = read_rows(run / "logging.jsonl");
  expect_logged(log[0], "eval_loss", loss_of(validation, held_out.size()));
  EXPECT_EQ(log[0].at("epoch"), 0.0);
  EXPECT_FALSE(log[0].contains("loss"));
  expect_logged(log[1], "loss", loss_of(train, 4));
  const double epochs[] = {0.4, 0.8, 1, 1.4};
  double tokens = 0;
  for (size_t step = 0; step < 4; ++step) {
    const Json& line = log[step + 1];
    EXPECT_NEAR(line.at("epoch").get<double>(), epochs[step], 1e-9) << step;
    const double before = tokens;
    tokens = line.at("num_tokens");
    EXPECT_NEAR(line.at("tokens_per_second").get<double>() * line.at("step_time").get<double>(),
                tokens - before, 1e-5 * (tokens - before));
  }
  EXPECT_EQ(tokens, 4 + 11 + 7 + 15 + 5 + 9 + 6 + 13 + 8 + 10 + (4 + 11 + 7 + 15));
}

/// Scalars of the event files of a folder: tag -> step -> value. Read without the program's code:
/// TFRecord framing, and of Event the fields step (2) and summary (5) with tag (1) and
/// simple_value (2).
class EventReader {
 public:
  explicit EventReader(const fs::path& folder) {
    for (const auto& entry : fs::directory_iterator(folder)) {
      const std::string bytes = slurp(entry.path());
      for (size_t at = 0; at + 12 <= bytes.size();) {
        uint64_t length = 0;
        std::memcpy(&length, bytes.data() + at, 8);
        read_event(bytes.substr(at + 12, length));
        at += 12 + length + 4;
      }
    }
  }
  std::map<std::string, std::map<int64_t, float>> scalars;

 private:
  using Field = std::function<void(int number, uint64_t value, const std::string& bytes)>;
  static void read_message(const std::string& bytes, const Field& on_field) {
    size_t at = 0;
    const auto varint = [&] {
      uint64_t value = 0;
      for (int shift = 0;; shift += 7) {
        const auto byte = static_cast<unsigned char>(bytes.at(at++));
        value |= uint64_t{byte & 0x7Fu} << shift;
        if (byte < 0x80) return value;
      }
    };
    while (at < bytes.size()) {
      const uint64_t key = varint();
      uint64_t value = 0;
      std::string inner;
      if (key % 8 == 0) {
        value = varint();
      } else {
        const size_t length = key % 8 == 1 ? 8 : key % 8 == 5 ? 4 : varint();
        inner = bytes.substr(at, length);
        at += length;
      }
      on_field(static_cast<int>(key / 8), value, inner);
    }
  }
  void read_event(const std::string& bytes) {
    int64_t step = 0;
    std::string summary;
    read_message(bytes, [&](int number, uint64_t value, const std::string& inner) {
      if (number == 2) step = static_cast<int64_t>(value);
      if (number == 5) summary = inner;
    });
    read_message(summary, [&](int number, uint64_t, const std::string& one) {
      if (number != 1) return;
      std::string tag;
      float value = 0;
      read_message(one, [&](int field, uint64_t, const std::string& inner) {
        if (field == 1) tag = inner;
        if (field == 2) std::memcpy(&value, inner.data(), 4);
      });
      scalars[tag][step] = value;
    });
  }
};

/// transformers' rule, of its TensorBoardCallback: eval_x becomes eval/x, all else train/x.
TEST_F(LoggedMetrics, TensorBoardHasEveryNumberUnderTheTagOfTransformers) {
  const fs::path run = *shared_ / "evaluated";
  const std::string rows = (*shared_ / "rows.jsonl").string();
  run_short("grpo", run,
            "--dataset " + rows + " --val_dataset " + rows +
                " --reward_funcs format --num_generations 2 --max_completion_length 4 --beta 0"
                " --max_steps 2 --logging_steps 1 --eval_strategy steps --eval_steps 1");
  const EventReader events(run / "runs");
  size_t evaluated = 0;
  std::map<std::string, std::map<int64_t, float>> expected;
  for (const Json& line : read_rows(run / "logging.jsonl")) {
    const int64_t step = line.contains("global_step")
                             ? line["global_step"].get<int64_t>()
                             : std::stoll(line.at("global_step/max_steps").get<std::string>());
    for (const auto& [name, value] : line.items()) {
      if (!value.is_number()) continue;
      const bool is_evaluation = name.starts_with("eval_");
      evaluated += is_evaluation;
      expected[is_evaluation ? "eval/" + name.substr(5) : "train/" + name][step] =
          value.get<float>();
    }
  }
  EXPECT_GT(evaluated, 10u);
  EXPECT_EQ(events.scalars, expected);
  for (const char* tag : {"train/loss", "train/rewards/Format/mean", "train/time/rollout",
                          "eval/reward", "eval/rewards/format/mean"})
    EXPECT_TRUE(events.scalars.count(tag)) << tag;
}

TEST_F(LoggedMetrics, TheGradientNormAndLearningRateAreThoseOfTheLastStep) {
  const auto logged = [&](const std::string& name, const std::string& steps) {
    const fs::path run = *shared_ / name;
    run_short("sft", run,
              "--dataset " + (*shared_ / "rows.jsonl").string() +
                  " --max_steps 6 --logging_steps " + steps +
                  " --logging_first_step false --learning_rate 1e-3");
    std::map<std::string, Values> all;
    for (const Json& line : read_rows(run / "logging.jsonl"))
      for (const char* key : {"grad_norm", "learning_rate"})
        if (line.contains(key)) all[key].push_back(line[key]);
    return all;
  };
  const auto every = logged("each", "1"), third = logged("third", "3");
  for (const char* key : {"grad_norm", "learning_rate"}) {
    const Values& each = every.at(key);
    ASSERT_EQ(each.size(), 6u) << key;
    EXPECT_EQ(third.at(key), (Values{each[2], each[5]})) << key;
    EXPECT_NE(each[1], each[2]) << key;
  }
}

/// The first step of a warm-up has a rate of 0: the second one finds the loss of the first.
TEST_F(LoggedMetrics, TheLoggedLearningRateIsTheOneThatTrains) {
  const fs::path run = *shared_ / "warming";
  run_short("sft", run,
            "--dataset " + (*shared_ / "rows.jsonl").string() +
                " --dataset_shuffle false --per_device_train_batch_size 8 --max_steps 3"
                " --warmup_steps 2 --learning_rate 1e-3 --logging_steps 1");
  const auto log = read_rows(run / "logging.jsonl");
  const auto loss = [&](size_t step) { return log[step].at("loss").get<double>(); };
  EXPECT_EQ(log[0].at("learning_rate"), 0.0);
  EXPECT_EQ(loss(1), loss(0));
  EXPECT_EQ(log[1].at("learning_rate"), 5e-4);
  EXPECT_LT(loss(2), loss(1) - 1e-6);
}

/// A schedule with its own numbers, and its formula as transformers' optimization.py has it.
struct LoggedSchedule {
  const char* type;
  const char* keywords = "{}";
  /// Whether --min_learning_rate is a floor of it.
  bool has_floor = false;
  /// The share of the peak after the warm-up: of the steps since its end and to the run's end.
  double (*share)(double since, double span);
};

double cosine_at(double turns) { return 0.5 * (1 + std::cos(std::numbers::pi * turns)); }

const LoggedSchedule kSchedules[] = {
    {"constant", "{}", false, [](double, double) { return 1.0; }},
    {"constant_with_warmup", "{}", false, [](double, double) { return 1.0; }},
    {"linear", "{}", true, [](double since, double span) { return 1 - since / span; }},
    {"cosine", "{}", true, [](double since, double span) { return cosine_at(since / span); }},
    {"cosine_with_restarts", R"({"num_cycles": 2})", false,
     [](double since, double span) { return cosine_at(std::fmod(2 * since / span, 1.0)); }},
    {"cosine_with_min_lr", R"({"min_lr_rate": 0.25})", false,
     [](double since, double span) { return 0.25 + 0.75 * cosine_at(since / span); }},
    {"polynomial", R"({"lr_end": 1e-4, "power": 2})", false,
     [](double since, double span) { return 0.05 + 0.95 * std::pow(1 - since / span, 2); }},
    {"inverse_sqrt", R"({"timescale": 5})", false,
     [](double since, double) { return 1 / std::sqrt((since + 5) / 5); }},
    {"warmup_stable_decay", R"({"num_decay_steps": 6, "min_lr_ratio": 0.1})", false,
     [](double since, double span) {
       return since < span - 6 ? 1 : 0.1 + 0.9 * cosine_at((since - (span - 6)) / 6);
     }},
};

/// The learning rate of a run that warms up, decays to a floor, and is resumed on its way.
class LoggedLearningRate : public ::testing::TestWithParam<LoggedSchedule> {};

TEST_P(LoggedLearningRate, FollowsTheScheduleThroughAResume) {
  const LoggedSchedule& schedule = GetParam();
  const TempDir folder;
  const std::string model = new_model(folder, "model", {"--like", "qwen3"});
  const fs::path run = folder / "run";
  constexpr double kPeak = 2e-3;
  constexpr int kSteps = 17, kWarmup = 4;  // ceil(0.2 * 17)
  const Arguments command =
      words_of(
          "sft --tuner_type full --warmup_ratio 0.2 --learning_rate 2e-3 --logging_steps 1"
          " --save_steps 7 --threads 1 --quiet true --model " +
          model + " --dataset " + write_rows(folder, "rows.jsonl", sum_rows(5)) + " --output_dir " +
          run.string() + " --max_steps " + std::to_string(kSteps) + " --min_learning_rate " +
          (schedule.has_floor ? "3e-4" : "0") + " --lr_scheduler_type " + schedule.type) +
      Arguments{"--lr_scheduler_kwargs", schedule.keywords};
  /// Steps count from 1; the first one has done none of the warm-up.
  const auto expected = [&](int step) {
    const double floor = schedule.has_floor ? 3e-4 : 0;
    if (step <= kWarmup && schedule.type != std::string("constant")) {
      // A rate that ends at a share of the peak begins there as well.
      const double first = schedule.type == std::string("warmup_stable_decay") ? 0.1 : 0;
      return kPeak * (first + (1 - first) * (step - 1) / kWarmup);
    }
    return floor + (kPeak - floor) * schedule.share(step - 1 - kWarmup, kSteps - kWarmup);
  };
  const auto check = [&] {
    const auto log = read_rows(run / "logging.jsonl");
    ASSERT_EQ(log.size(), size_t{kSteps + 1});
    for (int step = 1; step <= kSteps; ++step) {
      const Json& line = log[static_cast<size_t>(step - 1)];
      EXPECT_THAT(line.at("global_step/max_steps").get<std::string>(),
                  StartsWith(std::to_string(step) + "/"));
      EXPECT_NEAR(line.at("learning_rate").get<double>(), expected(step), 1e-8) << step;
    }
  };
  run_well(command);
  check();
  run_well(command + Arguments{"--resume_from_checkpoint", (run / "checkpoint-7").string()});
  check();
}

INSTANTIATE_TEST_SUITE_P(Schedules,
                         LoggedLearningRate,
                         ::testing::ValuesIn(kSchedules),
                         [](const auto& test) { return std::string(test.param.type); });

}  // namespace
}  // namespace lockstep::testing
