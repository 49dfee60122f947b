// SPDX-License-Identifier: Apache-2.0
#include "net/rollout_protocol.h"

#include "base/check.h"
#include "base/json.h"

namespace lockstep::net {
namespace {

/// A field of the wanted type, which every server of this protocol has.
template <class T>
T field(const Json& object, const char* name, const char* type, std::string_view where) {
  const auto found = object.find(name);
  const bool is_there = found != object.end();
  bool fits = false;
  if constexpr (std::is_same_v<T, bool>)
    fits = is_there && found->is_boolean();
  else if constexpr (std::is_same_v<T, int64_t>)
    fits = is_there && found->is_number_integer();
  else
    fits = is_there && found->is_string();
  if (!fits)
    fail<FormatError>("bad-server-info", where, "expected {} as lockstep.{}, got {}", type, name,
                      is_there ? dump_json(*found) : "nothing");
  return found->template get<T>();
}

const char* text_of(bool value) { return value ? "true" : "false"; }

}  // namespace

Json to_json(const SamplerInfo& info) {
  const SamplerIdentity& identity = info.identity;
  return {{"protocol", identity.protocol},
          {"model", identity.model},
          {"configuration", identity.configuration},
          {"tokenizer", identity.tokenizer},
          {"chat_template", identity.chat_template},
          {"dtype", identity.dtype},
          {"exact", identity.is_exact},
          {"max_model_len", info.max_model_len},
          {"max_num_seqs", info.max_num_seqs}};
}

SamplerInfo sampler_info(const Json& object, std::string_view where) {
  if (!object.is_object())
    fail<FormatError>("bad-server-info", where,
                      "expected an object \"lockstep\" in the answer to GET /server_info, got {} "
                      "(hint: is it a `lockstep rollout` server?)",
                      object.is_null() ? "none" : dump_json(object));
  SamplerInfo info;
  SamplerIdentity& identity = info.identity;
  identity.protocol = field<int64_t>(object, "protocol", "a number", where);
  // A server of another protocol may lack the rest.
  if (identity.protocol != kRolloutProtocol) return info;
  identity.model = field<std::string>(object, "model", "a digest", where);
  identity.configuration = field<std::string>(object, "configuration", "a digest", where);
  identity.tokenizer = field<std::string>(object, "tokenizer", "a digest", where);
  identity.chat_template = field<std::string>(object, "chat_template", "a digest", where);
  identity.dtype = field<std::string>(object, "dtype", "a type", where);
  identity.is_exact = field<bool>(object, "exact", "true or false", where);
  info.max_model_len = field<int64_t>(object, "max_model_len", "a number", where);
  info.max_num_seqs = field<int64_t>(object, "max_num_seqs", "a number", where);
  info.has_turns = !object.value("turns", Json()).is_null();
  return info;
}

std::vector<IdentityDifference> differences(const SamplerIdentity& expected,
                                            const SamplerIdentity& found) {
  const IdentityDifference fields[] = {
      {"protocol", std::to_string(expected.protocol), std::to_string(found.protocol)},
      {"dtype", expected.dtype, found.dtype},
      {"configuration", expected.configuration, found.configuration},
      {"model", expected.model, found.model},
      {"tokenizer", expected.tokenizer, found.tokenizer},
      {"chat_template", expected.chat_template, found.chat_template},
      {"exact", text_of(expected.is_exact), text_of(found.is_exact)}};
  std::vector<IdentityDifference> list;
  for (const IdentityDifference& one : fields)
    if (one.expected != one.found) list.push_back(one);
  return list;
}

std::string weight_label(int64_t step, std::string_view digest) {
  return fmt::format("step-{}:{}", step, digest);
}

std::string base_label(std::string_view digest) { return fmt::format("base:{}", digest); }

std::string answer_fingerprint(std::string_view weight_version, std::string_view adapter_digest) {
  return fmt::format("lockstep-{}{}{}", weight_version, adapter_digest.empty() ? "" : "+",
                     adapter_digest);
}

}  // namespace lockstep::net
