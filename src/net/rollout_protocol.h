// What a trainer and a server that samples for it tell each other besides vLLM's routes. Both sides
// write and read it by the functions here.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json_fwd.h"

namespace lockstep::net {

/// Counts up when an older trainer and a newer server, or the reverse, would misunderstand each
/// other.
inline constexpr int64_t kRolloutProtocol = 1;

/// What decides which tokens a request gets, apart from the values of the weights, which a trainer
/// sends. A server tells it as the object "lockstep" in the answer to GET
/// /server_info?config_format=json. Digests are XXH3-128 in hexadecimal digits.
struct SamplerIdentity {
  int64_t protocol = kRolloutProtocol;
  /// Of the names, shapes and types of all tensors (model::tensors_digest).
  std::string model;
  /// Of what config.json means (model::configuration_digest).
  std::string configuration;
  /// Of the files that turn text into ids (text::tokenizer_digest).
  std::string tokenizer;
  /// Of the chat templates (text::template_digest).
  std::string chat_template;
  /// "float32" or "bfloat16".
  std::string dtype;
  /// Whether log-probabilities are those of a forward that trains, bit for bit (--exact).
  bool is_exact = true;
};

/// A server's whole answer: its identity, and sizes that a trainer plans with.
struct SamplerInfo {
  SamplerIdentity identity;
  /// The most tokens of a prompt with its completion.
  int64_t max_model_len = 0;
  /// How many sequences it samples at once at most.
  int64_t max_num_seqs = 0;
  /// Whether it was started with flags of turns, which it tells in "turns" (agent/served_turns.h).
  bool has_turns = false;
};

Json to_json(const SamplerInfo& info);
/// Reads the object "lockstep". Throws FormatError "bad-server-info" at `where` naming the field.
SamplerInfo sampler_info(const Json& object, std::string_view where);

/// A field in which two samplers are not the same.
struct IdentityDifference {
  std::string field, expected, found;
};
/// The first difference goes first; the order is that of the struct, with `dtype` before `model`,
/// which depends on it. Empty where both give the same tokens.
std::vector<IdentityDifference> differences(const SamplerIdentity& expected,
                                            const SamplerIdentity& found);

/// The version label of weights: "step-N:DIGEST". DIGEST is that of the folder from which a server
/// loads them (train::digest_tensors), so that one label never means two weights.
std::string weight_label(int64_t step, std::string_view digest);
/// The version label of the weights beside which an adapter is trained: "base:DIGEST".
std::string base_label(std::string_view digest);

/// The "system_fingerprint" of an answer: under which version of the weights its request began, and
/// the digest of its adapter (model::adapter_digest; empty: none), which it keeps to its end.
std::string answer_fingerprint(std::string_view weight_version, std::string_view adapter_digest);

}  // namespace lockstep::net
