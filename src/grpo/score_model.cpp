// SPDX-License-Identifier: Apache-2.0
#include "grpo/score_model.h"

#include <algorithm>

#include "base/check.h"
#include "base/interrupt.h"
#include "base/json.h"
#include "base/log.h"
#include "model/decoder.h"
#include "reward/reward_json.h"
#include "tensor/aten.h"
#include "tensor/index_tensor.h"
#include "train/hf_checkpoint.h"

namespace lockstep::grpo {
namespace {

constexpr const char* kScore = "score.weight";
/// How many tokens are computed together.
constexpr int64_t kMostTokens = 4096;

/// A checkpoint without the head that scores, which no model of ours has.
class WithoutScore final : public model::TensorSource {
 public:
  explicit WithoutScore(const train::CheckpointSource& source) : source_(source) {}
  std::vector<std::string> names() const override {
    std::vector<std::string> names = source_.names();
    std::erase(names, kScore);
    return names;
  }
  bool contains(const std::string& name) const override {
    return name != kScore && source_.contains(name);
  }
  at::Tensor tensor(const std::string& name) const override { return source_.tensor(name); }
  std::vector<int64_t> shape(const std::string& name) const override { return source_.shape(name); }
  at::ScalarType dtype(const std::string& name) const override { return source_.dtype(name); }
  std::string where() const override { return source_.where(); }
  void release_pages() const override { source_.release_pages(); }

 private:
  const train::CheckpointSource& source_;
};

std::string name_of(const std::filesystem::path& directory) {
  const std::filesystem::path whole = std::filesystem::absolute(directory).lexically_normal();
  return whole.has_filename() ? whole.filename() : whole.parent_path().filename();
}

/// Conversations one behind another.
struct Packed {
  ops::PackedSequences sequences;
  std::vector<int64_t> ids;
  /// The token of each that is scored, and the completion that it belongs to.
  std::vector<int64_t> rows;
  std::vector<size_t> completions;
};

/// The logit of the first label at each of `packed.rows`, [B] float32.
at::Tensor scores_of(const model::ModelWeights& weights,
                     const at::Tensor& head,
                     const Packed& packed) {
  const at::NoGradGuard no_grad;
  model::ForwardBatch batch{.ids = index_tensor(packed.ids),
                            .positions = model::positions_of(packed.sequences),
                            .sequences = packed.sequences,
                            .adapters = {}};
  const at::Tensor hidden = model::Decoder(weights).forward(batch);
  return at::mm(hidden.index_select(0, index_tensor(packed.rows)).to(at::kFloat), head.unsqueeze(1))
      .squeeze(1);
}

}  // namespace

ScoreModel::ScoreModel(const std::filesystem::path& directory,
                       std::optional<model::WeightDtype> dtype)
    : RewardFunction({name_of(directory), name_of(directory)}), encoder_(directory) {
  model::ModelConfig config = train::load_config(directory);
  const Json whole = parse_json_file(directory / "config.json");
  if (const auto pad = whole.find("pad_token_id"); pad != whole.end() && pad->is_number_integer())
    pad_id_ = pad->get<int64_t>();
  const train::CheckpointSource source(directory);
  if (!source.contains(kScore))
    fail<FormatError>("missing-tensor", kScore,
                      "expected a checkpoint of a sequence classifier, which holds it, got none in "
                      "{}",
                      directory.string());
  // It has no head over the vocabulary.
  config.tie_word_embeddings = true;
  const at::Tensor labels = source.tensor(kScore);
  if (labels.dim() != 2 || labels.size(0) < 1 || labels.size(1) != config.hidden_size)
    fail<FormatError>("shape-mismatch", kScore, "expected [labels, {}], got {} dimensions in {}",
                      config.hidden_size, labels.dim(), directory.string());
  head_ = labels.select(0, 0).to(at::kFloat).clone();
  weights_ = std::make_unique<model::ModelWeights>(std::move(config), WithoutScore(source), dtype,
                                                   model::WeightUse::kFrozen);
  source.release_pages();
  log_info("reward model {}: {}, {} labels", name(), enum_name(weights_->config().family),
           labels.size(0));
}

ScoreModel::~ScoreModel() = default;

std::vector<int64_t> ScoreModel::ids_of(const reward::RewardInput& input) const {
  Json messages = input.messages && input.messages->is_array() ? *input.messages : Json::array();
  for (Json& message : reward::completion_messages(input)) messages.push_back(std::move(message));
  std::vector<int64_t> ids = encoder_.encode({.messages = &messages, .tools = input.tools});
  const int64_t most = weights_->config().max_position_embeddings;
  if (ids.empty() || std::ssize(ids) > most)
    fail<FormatError>("bad-row", input.where,
                      "expected a conversation of 1 to {} tokens for the reward model {}, got {}",
                      most, name(), ids.size());
  for (const int64_t id : ids)
    if (id < 0 || id >= weights_->config().vocab_size)
      fail<FormatError>("bad-row", input.where,
                        "expected ids below {} for the reward model {}, got {}",
                        weights_->config().vocab_size, name(), id);
  return ids;
}

int64_t ScoreModel::scored_token(const std::vector<int64_t>& ids) const {
  for (int64_t t = std::ssize(ids) - 1; t > 0; --t)
    if (ids[static_cast<size_t>(t)] != pad_id_) return t;
  return 0;
}

std::vector<std::optional<double>> ScoreModel::judge(std::span<const reward::RewardInput> inputs,
                                                     const reward::RunState&,
                                                     reward::PlacedNotes&) const {
  std::vector<std::optional<double>> values(inputs.size());
  Packed packed;
  const auto flush = [&] {
    if (packed.rows.empty()) return;
    throw_if_interrupted();
    const at::Tensor scores = scores_of(*weights_, head_, packed);
    for (size_t i = 0; i < packed.completions.size(); ++i)
      values[packed.completions[i]] = scores[static_cast<int64_t>(i)].item<float>();
    packed = {};
  };
  for (size_t i = 0; i < inputs.size(); ++i) {
    const std::vector<int64_t> ids = ids_of(inputs[i]);
    if (packed.sequences.tokens() + std::ssize(ids) > kMostTokens) flush();
    packed.rows.push_back(packed.sequences.tokens() + scored_token(ids));
    packed.completions.push_back(i);
    packed.sequences.append(std::ssize(ids));
    packed.ids.insert(packed.ids.end(), ids.begin(), ids.end());
  }
  flush();
  return values;
}

}  // namespace lockstep::grpo
