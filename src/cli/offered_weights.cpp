// SPDX-License-Identifier: Apache-2.0
#include "cli/offered_weights.h"

#include <utility>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/json.h"
#include "model/identity.h"
#include "rollout/engine_thread.h"
#include "tensor/aten.h"
#include "train/adapter_file.h"

namespace lockstep::cli {
namespace {

/// An adapter of a tiny model in float32 may be larger than the model.
constexpr size_t kMostAdapterShare = 16;

/// The tensors of a block as a model loads them.
class ImageSource : public model::TensorSource {
 public:
  explicit ImageSource(const sync::WeightImage& image) : image_(image) {
    for (const io::TensorEntry& entry : image.entries()) entries_[entry.name] = &entry;
  }
  std::vector<std::string> names() const override {
    std::vector<std::string> names;
    for (const io::TensorEntry& entry : image_.entries()) names.push_back(entry.name);
    return names;
  }
  bool contains(const std::string& name) const override { return entries_.count(name) != 0; }
  at::Tensor tensor(const std::string& name) const override {
    return image_.tensor(*entries_.at(name));
  }
  std::vector<int64_t> shape(const std::string& name) const override {
    return entries_.at(name)->shape;
  }
  at::ScalarType dtype(const std::string& name) const override { return entries_.at(name)->dtype; }
  std::string where() const override { return image_.where(); }

 private:
  const sync::WeightImage& image_;
  std::map<std::string, const io::TensorEntry*> entries_;
};

/// Unless `said` is empty.
void expect_digest(const sync::WeightImage& image, const std::string& said) {
  const std::string found = image.digest().hex();
  if (!said.empty() && found != said)
    fail<FormatError>("digest-mismatch", image.where(), "expected tensors of digest {}, got {}",
                      said, found);
}

/// The block of a peer.
sync::OfferedBlock block_of(const serve::OfferedWeights& offered) {
  const serve::WeightPeer& peer = offered.peer;
  return {.from = {.host = peer.host, .port = peer.port, .token = peer.token},
          .digest = offered.digest,
          .bytes = offered.bytes,
          .base = peer.base,
          .delta_bytes = peer.delta_bytes};
}

std::unique_ptr<rollout::StagedWeights> stage(std::shared_ptr<const model::ModelWeights> weights) {
  auto staged = std::make_unique<rollout::StagedModel>();
  staged->weights = std::move(weights);
  return staged;
}

std::unique_ptr<rollout::StagedWeights> stage_in_place(
    std::function<std::shared_ptr<const model::ModelWeights>()> build) {
  auto staged = std::make_unique<rollout::StagedModel>();
  staged->build = std::move(build);
  return staged;
}

}  // namespace

OfferedWeightsLoader::OfferedWeightsLoader(const train::LoadedModel& served,
                                           net::SamplerIdentity identity,
                                           std::optional<model::WeightDtype> dtype,
                                           UpdateMemory memory)
    : config_(served.weights->config()),
      identity_(std::move(identity)),
      dtype_(dtype),
      memory_(memory) {
  for (const model::Parameter& parameter : served.weights->parameters())
    for (const model::CheckpointPiece& piece : parameter.pieces) {
      const at::ScalarType type = parameter.value.scalar_type();
      tensors_[piece.name] = {piece.shape, type};
      most_bytes_ +=
          static_cast<size_t>(c10::multiply_integers(piece.shape)) * c10::elementSize(type);
    }
}

serve::LoadedWeights OfferedWeightsLoader::load(const serve::OfferedWeights& offered) {
  if (!offered.peer.host.empty()) return load_from_peer(offered);
  return offered.is_folder() ? load_folder(offered) : load_block(offered);
}

serve::LoadedWeights OfferedWeightsLoader::load_folder(const serve::OfferedWeights& offered) const {
  const std::string where = offered.folder.string();
  if (memory_ == UpdateMemory::kInPlace)
    fail<FormatError>("not-supported", where,
                      "expected shared memory or TCP, whose weights are verified before the old "
                      "ones go (--update_in_place), got a folder");
  auto loaded = train::load_model(offered.folder, dtype_, model::WeightUse::kFrozen);
  const auto expect = [&](const char* what, const std::string& expected, const Digest& found) {
    if (found.hex() != expected)
      fail<FormatError>("wrong-model", where,
                        "expected the {} of the model that is served ({}), got others ({})", what,
                        expected, found.hex());
  };
  expect("configuration", identity_.configuration,
         model::configuration_digest(loaded.weights->config()));
  expect("names, shapes and types of tensors", identity_.model,
         model::tensors_digest(*loaded.weights));
  const std::string found = train::digest_tensors(loaded.source->files()).hex();
  if (!offered.digest.empty() && found != offered.digest)
    fail<FormatError>("digest-mismatch", where, "expected tensors of digest {}, got {}",
                      offered.digest, found);
  return {.weights = stage(std::move(loaded.weights)),
          .digest = found,
          .checksums = train::tensor_checksums(loaded.source->files())};
}

void OfferedWeightsLoader::check_tensors(const sync::WeightImage& image) const {
  const auto refuse = [&](const char* code, const std::string& name, const std::string& expected,
                          const std::string& got) {
    fail<FormatError>(code, image.where() + ": " + name, "expected {}, got {}", expected, got);
  };
  for (const io::TensorEntry& entry : image.entries()) {
    const auto known = tensors_.find(entry.name);
    if (known == tensors_.end())
      refuse("unknown-tensor", entry.name, "tensors of the model that is served", "another");
    const Tensor& tensor = known->second;
    if (entry.shape != tensor.shape)
      refuse("shape-mismatch", entry.name, fmt::format("[{}]", fmt::join(tensor.shape, ", ")),
             fmt::format("[{}]", fmt::join(entry.shape, ", ")));
    if (entry.dtype != tensor.dtype)
      refuse("bad-dtype", entry.name, c10::toString(tensor.dtype), c10::toString(entry.dtype));
  }
  // Names in a header differ, so those that are there are all but the missing ones.
  if (image.entries().size() == tensors_.size()) return;
  for (const auto& [name, tensor] : tensors_)
    if (!image.digests().count(name))
      refuse("missing-tensor", name, "each tensor of the model that is served", "none");
}

void OfferedWeightsLoader::release() {
  {
    const std::lock_guard lock(mutex_);
    block_.reset();
  }
  // What is being received when another trainer comes is kept until it is done.
  if (const std::unique_lock lock(receiving_, std::try_to_lock); lock) receiver_.forget();
}

std::shared_ptr<const sync::SharedMemory> OfferedWeightsLoader::open_block(
    const serve::OfferedWeights& offered) {
  const std::lock_guard lock(mutex_);
  const bool is_open =
      block_ && block_->name() == offered.shared_memory && block_->bytes().size() == offered.bytes;
  if (!is_open) {
    block_.reset();
    block_ = sync::SharedMemory::open(offered.shared_memory, offered.bytes);
  }
  return block_;
}

serve::LoadedWeights OfferedWeightsLoader::load_block(const serve::OfferedWeights& offered) {
  const auto block = open_block(offered);
  auto image = std::make_shared<sync::WeightImage>(block, block->bytes(), offered.shared_memory);
  check_tensors(*image);
  expect_digest(*image, offered.digest);
  image->verify(at::get_num_threads());
  return load_image(std::move(image));
}

serve::LoadedWeights OfferedWeightsLoader::load_from_peer(const serve::OfferedWeights& offered) {
  const std::lock_guard lock(receiving_);
  // One of its own gives its memory back with the image.
  sync::WeightReceiver of_this_update;
  sync::WeightReceiver& receiver = memory_ == UpdateMemory::kInPlace ? of_this_update : receiver_;
  return load_image(std::make_shared<sync::WeightImage>(
      receiver.receive(block_of(offered), most_bytes_,
                       [this](const sync::WeightImage& header) { check_tensors(header); })));
}

std::unique_ptr<model::Adapter> OfferedWeightsLoader::load_adapter(
    const serve::OfferedWeights& offered, std::span<const model::Parameter> parameters) const {
  if (offered.is_folder()) return train::load_adapter(offered.folder, parameters);
  const auto read = [&](const sync::WeightImage& image) {
    const auto config = image.metadata().find("adapter_config");
    if (config == image.metadata().end())
      fail<FormatError>("bad-image", image.where(),
                        "expected an adapter, with metadata \"adapter_config\", got none");
    const std::string where = image.where() + ": adapter_config";
    return std::make_unique<model::Adapter>(
        parameters,
        model::parse_adapter_config(parse_json(config->second, where, "bad-adapter"), where),
        ImageSource(image));
  };
  if (offered.peer.host.empty()) {
    const auto block = sync::SharedMemory::open(offered.shared_memory, offered.bytes);
    const sync::WeightImage image(block, block->bytes(), offered.shared_memory);
    expect_digest(image, offered.digest);
    image.verify(at::get_num_threads());
    return read(image);
  }
  // Adapters are small: their memory goes with this.
  sync::WeightReceiver receiver;
  return read(receiver.receive(block_of(offered), kMostAdapterShare * most_bytes_,
                               [](const sync::WeightImage&) {}));
}

serve::LoadedWeights OfferedWeightsLoader::load_image(
    std::shared_ptr<const sync::WeightImage> image) const {
  const auto make = [config = config_, image] {
    return std::make_shared<model::ModelWeights>(config, ImageSource(*image), std::nullopt,
                                                 model::WeightUse::kFrozen);
  };
  serve::LoadedWeights loaded{.weights = nullptr, .digest = image->digest().hex(), .checksums = {}};
  for (const auto& [name, digest] : image->digests()) loaded.checksums[name] = digest.hex();
  if (memory_ == UpdateMemory::kBeside)
    loaded.weights = stage(make());
  else
    loaded.weights = stage_in_place([make, image] {
      auto weights = make();
      // Nobody should have written to the block since it was verified.
      image->verify(at::get_num_threads());
      return weights;
    });
  return loaded;
}

}  // namespace lockstep::cli
