// SPDX-License-Identifier: Apache-2.0
#include "grpo/weight_block.h"

#include <charconv>
#include <cstring>

#include "base/check.h"
#include "grpo/weight_writer.h"
#include "model/identity.h"
#include "net/rollout_protocol.h"
#include "sync/weight_delta.h"
#include "tensor/aten.h"
#include "train/adapter_file.h"

namespace lockstep::grpo {
namespace {

/// A delta must leave out a tenth at least to be worth the receiver's work.
constexpr size_t kDeltaShare = 10;

}  // namespace

ListenAddress parse_listen_address(const std::string& text) {
  const auto refuse = [&] {
    fail<ConfigError>("bad-flag", "--sync_address", "expected HOST or HOST:PORT, got \"{}\"", text);
  };
  std::string host = text, port;
  const size_t colon = text.rfind(':'), bracket = text.rfind(']');
  const bool has_port = bracket == std::string::npos
                            ? colon != std::string::npos && text.find(':') == colon
                            : colon != std::string::npos && colon > bracket;
  if (has_port) {
    host = text.substr(0, colon);
    port = text.substr(colon + 1);
  }
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  ListenAddress address{.host = host};
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  // Servers are told this address: it must lead to this machine from theirs.
  if (host == "0.0.0.0" || host == "::")
    fail<ConfigError>("bad-flag", "--sync_address",
                      "expected the address under which the servers reach this machine, got {}",
                      host);
  if (host.empty() || (has_port && (error != std::errc() || end != port.data() + port.size())))
    refuse();
  return address;
}

WeightBlock::WeightBlock(const train::LoadedModel& model, const WeightBlockOptions& options)
    : model_(&model), options_(options) {
  if (options_.listen)
    sender_ = std::make_unique<sync::WeightSender>(options_.listen->host, options_.listen->port);
  if (options_.adapter_prefix.empty())
    writer_.emplace(options_.merges_adapter
                        ? train::text_model_tensors(files_of(model), merged_options(model))
                        : train::text_model_tensors(model, {}));
  block_ = make_room(writer_ ? writer_->bytes() : adapter_writer().bytes());
}

/// Of the adapter as it is now.
sync::ImageWriter WeightBlock::adapter_writer() const {
  train::AdapterFiles files = train::adapter_files(
      *model_->adapter, model::adapter_targets(*model_->weights), model_->directory.string());
  return sync::ImageWriter(std::move(files.tensors), {{"adapter_config", files.config}});
}

std::shared_ptr<sync::SharedMemory> WeightBlock::make_room(size_t bytes) const {
  return sender_ ? sync::SharedMemory::create_nameless(bytes) : sync::SharedMemory::create(bytes);
}

WeightOffer WeightBlock::write(int64_t step, bool anew) {
  if (!writer_) return write_adapter(step);
  WeightOffer offer = sender_ ? write_sent(*writer_) : write_shared(*writer_, anew);
  offer.bytes = writer_->bytes();
  offer.digest = digest_;
  offer.label = net::weight_label(step, digest_);
  return offer;
}

/// Small, and always into another block: somebody may still load the last one.
WeightOffer WeightBlock::write_adapter(int64_t step) {
  const sync::ImageWriter writer = adapter_writer();
  WeightOffer offer = sender_ ? write_sent(writer) : write_shared(writer, /*anew=*/true);
  offer.bytes = writer.bytes();
  offer.block_digest = digest_;
  offer.digest = model::adapter_digest(*model_->adapter).hex();
  offer.label = net::weight_label(step, offer.digest);
  offer.adapter_name = options_.adapter_prefix + std::to_string(step);
  offer.num_pairs = std::ssize(model_->adapter->targets());
  return offer;
}

WeightOffer WeightBlock::write_shared(const sync::ImageWriter& writer, bool anew) {
  if (anew) {
    // The room of the old one is free when its readers are gone.
    block_.reset();
    block_ = make_room(writer.bytes());
  }
  digest_ = writer.write(block_->bytes(), at::get_num_threads()).hex();
  WeightOffer offer;
  offer.shared_memory = block_->name();
  return offer;
}

WeightOffer WeightBlock::write_sent(const sync::ImageWriter& writer) {
  sender_->withdraw();
  const std::string base = options_.makes_deltas ? digest_ : "";
  // If the writing breaks off, the block holds neither.
  digest_.clear();
  if (block_->bytes().size() != writer.bytes()) block_ = make_room(writer.bytes());
  sync::DeltaWriter changes(writer.bytes() - writer.bytes() / kDeltaShare);
  sync::ImageWriter::OnReplace compare;
  if (!base.empty())
    compare = [&](size_t tensor, auto before, auto after) {
      changes.add(tensor, before, after, writer.element_bytes(tensor));
    };
  digest_ = writer.write(block_->bytes(), at::get_num_threads(), compare).hex();
  sync::SentWeights sent{.digest = digest_, .block = block_};
  WeightOffer offer;
  if (!base.empty()) {
    const auto delta =
        changes.finish(base, digest_, writer.bytes(), block_->bytes().first(writer.header_bytes()));
    if (!delta.empty()) {
      const auto kept = sync::SharedMemory::create_nameless(delta.size());
      std::memcpy(kept->bytes().data(), delta.data(), delta.size());
      sent.base = offer.base = base;
      sent.delta = kept;
      offer.delta_bytes = delta.size();
      offer.sparsity = 1 - static_cast<double>(changes.changed()) /
                               static_cast<double>(std::max<int64_t>(changes.elements(), 1));
    }
  }
  const sync::SenderAddress& address = sender_->address();
  offer.host = address.host;
  offer.port = address.port;
  offer.token = address.token;
  sender_->offer(std::move(sent));
  return offer;
}

}  // namespace lockstep::grpo
