// SPDX-License-Identifier: Apache-2.0
#include "grpo/weight_block.h"

#include <charconv>
#include <cstring>

#include "base/check.h"
#include "grpo/weight_writer.h"
#include "net/rollout_protocol.h"
#include "sync/weight_delta.h"
#include "tensor/aten.h"

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
    : writer_(options.merges_adapter
                  ? train::text_model_tensors(files_of(model), merged_options(model))
                  : train::text_model_tensors(model, {})),
      makes_deltas_(options.makes_deltas) {
  if (!options.listen) {
    block_ = sync::SharedMemory::create(writer_.bytes());
    return;
  }
  block_ = sync::SharedMemory::create_nameless(writer_.bytes());
  sender_ = std::make_unique<sync::WeightSender>(options.listen->host, options.listen->port);
}

WeightOffer WeightBlock::write(int64_t step, bool anew) {
  WeightOffer offer = sender_ ? write_sent() : write_shared(anew);
  offer.bytes = writer_.bytes();
  offer.digest = digest_;
  offer.label = net::weight_label(step, digest_);
  return offer;
}

WeightOffer WeightBlock::write_shared(bool anew) {
  if (anew) {
    // The room of the old one is free when its readers are gone.
    block_.reset();
    block_ = sync::SharedMemory::create(writer_.bytes());
  }
  digest_ = writer_.write(block_->bytes(), at::get_num_threads()).hex();
  WeightOffer offer;
  offer.shared_memory = block_->name();
  return offer;
}

WeightOffer WeightBlock::write_sent() {
  sender_->withdraw();
  const std::string base = makes_deltas_ ? digest_ : "";
  // If the writing breaks off, the block holds neither.
  digest_.clear();
  sync::DeltaWriter changes(writer_.bytes() - writer_.bytes() / kDeltaShare);
  sync::ImageWriter::OnReplace compare;
  if (!base.empty())
    compare = [&](size_t tensor, auto before, auto after) {
      changes.add(tensor, before, after, writer_.element_bytes(tensor));
    };
  digest_ = writer_.write(block_->bytes(), at::get_num_threads(), compare).hex();
  sync::SentWeights sent{.digest = digest_, .block = block_};
  WeightOffer offer;
  if (!base.empty()) {
    const auto delta = changes.finish(base, digest_, writer_.bytes(),
                                      block_->bytes().first(writer_.header_bytes()));
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
