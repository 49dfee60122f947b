// Makes layouts rank by rank out of the formats' tables.
// SPDX-License-Identifier: Apache-2.0
#include "model/weight_formats/make_layout.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "model/weight_formats/format_tables.h"

namespace lockstep::model {
namespace {

using layout::Layout;
using layout::part;
using layout::PhysicalTensor;
using layout::Range;
using layout::RankTensors;

/// What one rank holds.
struct RankPlan {
  /// Its share of everything except routed experts.
  Share share;
  /// Its share of each routed expert that it holds.
  Share expert_share;
  /// Its place among the ranks that share out whole experts.
  int64_t expert_rank = 0, expert_ranks = 1;
  Range layers;
  bool is_first_stage = true, is_last_stage = true;
  /// Whether it holds the tensors that no format takes apart.
  bool carries = true;
};

/// The experts of a rank: contiguous, with one more on each of the first ranks if they do not
/// divide. Source: vllm, fused_moe/layer.py, determine_expert_map (linear).
Range experts_of(int64_t count, int64_t rank, int64_t ranks) {
  const int64_t base = count / ranks, rest = count % ranks;
  const int64_t begin = rank * base + std::min(rank, rest);
  return {begin, begin + base + (rank < rest ? 1 : 0)};
}

/// Builds the tensors of one rank.
class RankBuilder {
 public:
  RankBuilder(const LogicalModel& model, const CheckpointForm& form, const std::string& name)
      : model_(model), form_(form), name_(name) {}

  RankTensors build(const WeightFormat& format, const RankPlan& plan) {
    tensors_.clear();
    const TopNames names = format.top_names();
    const std::optional<MtpNames> mtp = format.mtp_names();
    if (plan.is_first_stage) add_table(format, plan.share, names.embedding, model_.embedding);
    for (int64_t i = plan.layers.begin; i < plan.layers.end; ++i)
      add_block(format, plan, fmt::format("{}{}.", names.layers, i - plan.layers.begin),
                model_.layers[static_cast<size_t>(i)]);
    if (plan.is_last_stage) {
      add(format, {names.final_norm, {part(model_.final_norm)}}, plan.share);
      if (model_.head >= 0) add_table(format, plan.share, names.head, model_.head);
    }
    // A last stage cannot use the embedding of another stage, so it has a copy.
    if (plan.is_last_stage && !plan.is_first_stage) {
      Share copy = plan.share;
      copy.is_copy = true;
      if (model_.head < 0) add_table(format, copy, names.head, model_.embedding);
      if (model_.mtp && mtp) add_table(format, copy, names.embedding, model_.embedding);
    }
    if (model_.mtp && mtp && plan.is_last_stage) add_mtp(format, plan, *mtp, Split::kRows);
    if (plan.carries) add_carried(format, mtp.has_value());
    return std::move(tensors_);
  }

 private:
  void add(const WeightFormat& format, Entry entry, const Share& share, int64_t padded_vocab = 0) {
    entry.stored_type = format.stored_type(entry.name);
    tensors_.push_back(place_entry(model_, entry, share, padded_vocab, name_));
  }
  void add_table(const WeightFormat& format,
                 const Share& share,
                 const std::string& name,
                 int32_t table) {
    add(format, {name, {part(table)}, Split::kVocabulary}, share,
        format.padded_vocab(model_.config.vocab_size, share.size));
  }
  void add_block(const WeightFormat& format,
                 const RankPlan& plan,
                 const std::string& prefix,
                 const BlockIds& ids) {
    for (const Entry& entry : below(prefix, format.block(ids))) add(format, entry, plan.share);
    if (!ids.experts) return;
    const auto& experts = ids.experts->experts;
    const Range mine =
        experts_of(static_cast<int64_t>(experts.size()), plan.expert_rank, plan.expert_ranks);
    const auto local = std::span(experts).subspan(static_cast<size_t>(mine.begin),
                                                  static_cast<size_t>(mine.size()));
    for (const Entry& entry : below(prefix, format.routed(local, mine.begin)))
      add(format, entry, plan.expert_share);
  }
  void add_mtp(const WeightFormat& format,
               const RankPlan& plan,
               const MtpNames& names,
               Split fc_split) {
    const MtpIds& mtp = *model_.mtp;
    add(format, {names.fc, {part(mtp.fc)}, fc_split}, plan.share);
    for (size_t i = 0; i < mtp.layers.size(); ++i)
      add_block(format, plan, fmt::format("{}{}.{}", names.layers, i, names.layer_infix),
                mtp.layers[i]);
    add(format, {names.norm, {part(mtp.norm)}}, plan.share);
    add(format, {names.embedding_norm, {part(mtp.embedding_norm)}}, plan.share);
    add(format, {names.hidden_norm, {part(mtp.hidden_norm)}}, plan.share);
  }
  void add_carried(const WeightFormat& format, bool knows_mtp) {
    if (model_.mtp && !knows_mtp) {
      CheckpointForm form = form_;
      form.experts_grouped = form.mtp_experts_grouped;
      add_mtp(*checkpoint_format(form), RankPlan{}, checkpoint_mtp_names(), Split::kWhole);
    }
    for (const int32_t index : model_.carried) {
      const std::string name = format.carried_name((*model_.tensors)[index].id);
      for (const PhysicalTensor& tensor : tensors_)
        if (tensor.name == name)
          fail<FormatError>("layout-conflict", (*model_.tensors)[index].id,
                            "expected no other tensor that {} calls {}, got one", name_, name);
      tensors_.push_back(place_carried(model_, index, name));
    }
  }

  const LogicalModel& model_;
  const CheckpointForm& form_;
  const std::string& name_;
  RankTensors tensors_;
};

/// Builds the ranks of the layout that a spec says.
class LayoutBuilder {
 public:
  LayoutBuilder(const LogicalModel& model, const CheckpointForm& published, const LayoutSpec& name)
      : model_(model), form_(published), name_(name), text_(name.text()) {
    if (!name.has_key("experts")) return;
    if (name.choice("experts") != "published")
      form_.experts_grouped = form_.mtp_experts_grouped = name.choice("experts") == "grouped";
    if (name.choice("prefix") != "published")
      form_.prefix = name.choice("prefix") == "flat" ? "model." : "model.language_model.";
  }

  Layout build() {
    const std::string& format = name_.format();
    if (format == "checkpoint") add_single(*checkpoint_format(form_));
    if (format == "qwen3-next") add_qwen3_next();
    if (format == "hf-runtime") add_single(*runtime());
    if (format == "fsdp2") add_fsdp2();
    if (format == "megatron") add_megatron();
    if (format == "vllm" || format == "vllm-ascend") add_vllm();
    if (format == "lockstep") add_lockstep();
    LOCKSTEP_CHECK(!ranks_.empty(), "no table for {}", format);
    return Layout(text_, model_.tensors, std::move(ranks_));
  }

 private:
  template <class... Args>
  [[noreturn]] void conflict(fmt::format_string<Args...> message, Args&&... args) const {
    fail<ConfigError>("layout-conflict", text_, message, std::forward<Args>(args)...);
  }
  int64_t num_layers() const { return static_cast<int64_t>(model_.layers.size()); }
  RankPlan whole_plan() const { return {.layers = {0, num_layers()}}; }
  RankTensors rank(const WeightFormat& format, const RankPlan& plan) {
    return RankBuilder(model_, form_, text_).build(format, plan);
  }

  std::unique_ptr<WeightFormat> runtime() const {
    return checkpoint_format(
        {.prefix = published_form(model_.config).prefix, .experts_grouped = true});
  }

  void add_single(const WeightFormat& format) { ranks_.push_back(rank(format, whole_plan())); }

  void add_qwen3_next() {
    if (model_.config.linear_num_key_heads == 0)
      conflict("expected a model with gated delta layers, got {}", enum_name(model_.config.family));
    add_single(*qwen3_next_format(form_));
  }

  /// Shares rows out in pieces of ceil(rows / ranks), as torch.chunk does: the last ranks may have
  /// fewer rows or none.
  void add_fsdp2() {
    const int64_t world = name_.number("world");
    const RankTensors whole_tensors = rank(*runtime(), whole_plan());
    for (int64_t r = 0; r < world; ++r) {
      RankTensors mine;
      for (const PhysicalTensor& tensor : whole_tensors) {
        // A scalar cannot be cut: each rank has it.
        if (tensor.shape.empty()) {
          mine.push_back(tensor);
          mine.back().boxes.front().is_copy = r > 0;
          continue;
        }
        const int64_t rows = tensor.shape[0], chunk = (rows + world - 1) / world;
        mine.push_back(
            cut(tensor, /*axis=*/0, std::min(r * chunk, rows), std::min((r + 1) * chunk, rows)));
      }
      ranks_.push_back(std::move(mine));
    }
  }

  /// Numbers the ranks in Megatron's order: tensor parallel fastest, then data parallel, pipeline
  /// stages last. Experts have a grid of their own over the ranks of a stage.
  void add_megatron() {
    const int64_t tp = name_.number("tp"), pp = name_.number("pp"), ep = name_.number("ep"),
                  etp = name_.number("etp"), stage_ranks = name_.num_ranks() / pp;
    if (num_layers() % pp)
      conflict("expected pp to divide the {} layers, got {}", num_layers(), pp);
    check_experts(ep, /*must_divide=*/true);
    check_key("etp", model_.config.num_experts > 0, "experts");
    check_key("gate", model_.config.is_qwen3_5(), "output gates");
    for (const char* key : {"gdn", "out_norm"})
      check_key(key, model_.config.linear_num_key_heads > 0, "gated delta layers");
    const auto format = megatron_format(name_);
    for (int64_t r = 0; r < stage_ranks * pp; ++r) {
      const int64_t stage = r / stage_ranks, s = r % stage_ranks;
      ranks_.push_back(rank(*format, {.share = {s % tp, tp, /*is_copy=*/s >= tp},
                                      .expert_share = {s % etp, etp, /*is_copy=*/s >= ep * etp},
                                      .expert_rank = s / etp % ep,
                                      .expert_ranks = ep,
                                      .layers = layout::piece_of(num_layers(), stage, pp),
                                      .is_first_stage = stage == 0,
                                      .is_last_stage = stage == pp - 1,
                                      .carries = r == 0}));
    }
  }

  void add_vllm() {
    const int64_t tp = name_.number("tp"), ep = name_.number("ep"), ranks = name_.num_ranks();
    if (ep > 1 && ep != ranks) conflict("expected ep to be 1 or tp x dp = {}, got {}", ranks, ep);
    check_experts(ep, /*must_divide=*/false);
    if (name_.has_key("dtype") && !name_.is_default("dtype") && !name_.has_own_types())
      conflict("expected a version for dtype, since older layouts have the checkpoint's, got none");
    const auto format = vllm_format(model_.config, name_);
    for (int64_t r = 0; r < ranks; ++r)
      ranks_.push_back(rank(*format, {.share = {r % tp, tp, /*is_copy=*/r >= tp},
                                      .expert_share = ep > 1 ? Share{} : Share{r, ranks},
                                      .expert_rank = ep > 1 ? r : 0,
                                      .expert_ranks = ep,
                                      .layers = {0, num_layers()},
                                      .carries = r == 0}));
  }

  /// Shares whole experts out over ep ranks; without ep they are cut like everything else.
  void add_lockstep() {
    const int64_t tp = name_.number("tp"), ep = name_.number("ep"), ranks = name_.num_ranks();
    check_experts(ep, /*must_divide=*/false);
    const auto format = lockstep_format();
    for (int64_t r = 0; r < ranks; ++r) {
      const Share share{r % tp, tp, /*is_copy=*/r >= tp};
      ranks_.push_back(rank(*format, {.share = share,
                                      .expert_share = ep > 1 ? Share{.is_copy = r >= ep} : share,
                                      .expert_rank = r % ep,
                                      .expert_ranks = ep,
                                      .layers = {0, num_layers()},
                                      .carries = r == 0}));
    }
  }

  void check_experts(int64_t ep, bool must_divide) const {
    const int64_t experts = model_.config.num_experts;
    if (ep == 1) return;
    if (experts == 0)
      conflict("expected a mixture of experts for ep={}, got {}", ep,
               enum_name(model_.config.family));
    if (must_divide && experts % ep)
      conflict("expected ep to divide the {} experts, got {}", experts, ep);
    if (ep > experts) conflict("expected ep to be at most the {} experts, got {}", experts, ep);
  }
  /// Refuses keys that would change nothing about this model: they are a mistake.
  void check_key(const char* key, bool has_meaning, const char* of) const {
    if (!has_meaning && !name_.is_default(key))
      conflict("expected a model with {} for {}, got {}", of, key, enum_name(model_.config.family));
  }

  const LogicalModel& model_;
  /// How checkpoints are spelled, and the MTP tensors that other formats carry.
  CheckpointForm form_;
  const LayoutSpec& name_;
  std::string text_;
  std::vector<RankTensors> ranks_;
};

}  // namespace

Layout make_layout(const LogicalModel& model,
                   const CheckpointForm& published,
                   const LayoutSpec& name) {
  return LayoutBuilder(model, published, name).build();
}

std::string published_carried_name(const LayoutSpec& layout, const std::string& physical_name) {
  const std::string published = "model." + physical_name;
  const bool drops = layout.format() == "megatron" || layout.format().starts_with("vllm");
  return drops && without_model_prefix(published) == physical_name ? published : physical_name;
}

}  // namespace lockstep::model
