// SPDX-License-Identifier: Apache-2.0
#include "grpo/weight_writer.h"

#include <vector>

#include "base/check.h"
#include "base/file.h"
#include "io/safetensors.h"
#include "model/identity.h"
#include "net/rollout_protocol.h"
#include "train/adapter_file.h"

namespace lockstep::grpo {

namespace fs = std::filesystem;

train::LoadedModel files_of(const train::LoadedModel& model) {
  return {.directory = model.directory,
          .source = model.source,
          .weights = nullptr,
          .adapter = nullptr,
          .base = nullptr,
          .companions = model.companions
                            ? model.companions
                            : std::make_shared<train::CompanionFiles>(model.directory)};
}

train::WriteOptions merged_options(const train::LoadedModel& model) {
  return {.dtype = model.weights->weight_dtype(), .merged = model.adapter.get()};
}

WeightWriter::WeightWriter(const train::LoadedModel& model,
                           fs::path directory,
                           const fs::path& run,
                           bool merges_adapter)
    : model_(&model),
      directory_(fs::absolute(directory)),
      run_(digest_of(fs::absolute(run).string()).hex().substr(0, 8)),
      prefix_("weights-" + run_ + "-step-"),
      merges_adapter_(merges_adapter && model.adapter) {}

WeightWriter::~WeightWriter() {
  if (last_.empty()) return;
  try {
    remove_whole(last_);
    std::error_code ignored;
    // Only if nothing else lies in it.
    fs::remove(directory_, ignored);
  } catch (const Error&) {
    // What is left there is removed by the next run.
  }
}

/// Removes what a run that was killed has left in the folder.
void WeightWriter::remove_leftovers() const {
  std::vector<fs::path> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(directory_, ignored))
    found.push_back(entry.path());
  for (const fs::path& path : found) {
    const std::string name = path.filename().string();
    if (name.starts_with(prefix_)) remove_whole(path);
    if (name_of_temporary(name).starts_with(prefix_)) remove_if_abandoned(path);
  }
}

WeightOffer WeightWriter::write(int64_t step) {
  if (last_.empty()) remove_leftovers();
  const fs::path path = directory_ / (prefix_ + std::to_string(step));
  {
    AtomicDirectory folder(path, /*replace=*/true);
    if (const model::Adapter* adapter = written_adapter())
      train::write_adapter(*adapter, model::adapter_targets(*model_->weights),
                           model_->directory.string(), folder.staging());
    else if (merges_adapter_)
      train::write_checkpoint(files_of(*model_), folder.staging(), merged_options(*model_));
    else
      train::write_checkpoint(*model_, folder.staging(), {});
    folder.commit();
  }
  if (!last_.empty() && last_ != path) remove_whole(last_);
  last_ = path;
  if (const model::Adapter* adapter = written_adapter()) {
    const std::string digest = model::adapter_digest(*adapter).hex();
    return {.path = path,
            .digest = digest,
            .label = net::weight_label(step, digest),
            .adapter_name = adapter_prefix() + std::to_string(step),
            .num_pairs = std::ssize(adapter->targets())};
  }
  const std::string digest = train::digest_tensors(io::SafetensorsCheckpoint(path)).hex();
  return {.path = path, .digest = digest, .label = net::weight_label(step, digest)};
}

std::optional<BaseWeights> WeightWriter::base() const {
  if (!written_adapter()) return {};
  const io::SafetensorsCheckpoint& files = model_->source->files();
  return BaseWeights{.checksums = train::tensor_checksums(files),
                     .label = net::base_label(train::digest_tensors(files).hex()),
                     .adapter_prefix = adapter_prefix()};
}

}  // namespace lockstep::grpo
