// SPDX-License-Identifier: Apache-2.0
#include "grpo/completion_wire.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/json.h"
#include "net/number_block.h"

namespace lockstep::grpo {
namespace {

/// Reads one answer; every error names the server and the choice.
class Reader {
 public:
  Reader(const rollout::Request& request, const std::string& where, bool tells_versions)
      : request_(request), where_(where), tells_versions_(tells_versions) {}

  std::vector<rollout::Completion> completions(const Json& answer) const {
    const Json& choices = field(answer, "choices", Json::value_t::array);
    const auto count = static_cast<size_t>(request_.num_samples);
    if (choices.size() != count) refuse(fmt::format("{} choices", count), choices.size());
    std::vector<rollout::Completion> list(count);
    std::vector<bool> is_there(count);
    for (const Json& choice : choices) {
      const Json& index = field(choice, "index", Json::value_t::number_unsigned);
      const auto at = index.get<uint64_t>();
      if (at >= count || is_there[at])
        refuse(fmt::format("each number of a choice once, below {}", count), at);
      is_there[at] = true;
      list[at] = completion(choice);
    }
    if (request_.settings.record_experts != rollout::RecordExperts::kNothing && tells_versions_)
      read_experts(choices, list);
    return list;
  }

 private:
  template <class Got>
  [[noreturn]] void refuse(const std::string& expected, const Got& got) const {
    fail<PeerError>("bad-answer", where_, "expected {} from POST /v1/completions, got {}", expected,
                    got);
  }

  const Json& field(const Json& object, const char* name, Json::value_t type) const {
    static const Json nothing;
    const Json& found = object.is_object() && object.contains(name) ? object[name] : nothing;
    const bool is_number =
        type == Json::value_t::number_unsigned && found.is_number_integer() && found >= 0;
    if (found.type() != type && !is_number)
      refuse(fmt::format("a field \"{}\"", name), dump_json(found));
    return found;
  }

  rollout::Completion completion(const Json& choice) const {
    rollout::Completion made;
    for (const Json& id : field(choice, "token_ids", Json::value_t::array)) {
      if (!id.is_number_integer() || id < 0) refuse("a number as a token id", dump_json(id));
      made.token_ids.push_back(id.get<int64_t>());
    }
    if (choice.value("finish_reason", Json()) == "abort") refuse_aborted(made);
    const auto tokens = std::ssize(made.token_ids);
    if (tokens < 1 || tokens > request_.settings.max_new_tokens)
      refuse(fmt::format("1 to {} tokens", request_.settings.max_new_tokens), tokens);
    read_logprobs(choice, made);
    read_processed(choice, made);
    if (tells_versions_) check_versions(choice, tokens);
    read_end(choice, made);
    return made;
  }

  [[noreturn]] void refuse_aborted(const rollout::Completion& made) const {
    fail<PeerError>("request-aborted", where_,
                    "expected whole completions from POST /v1/completions, got one that was "
                    "aborted after {} tokens",
                    made.token_ids.size());
  }

  /// Those of the prompt stand with the choice of number 0, for all.
  void read_experts(const Json& choices, std::vector<rollout::Completion>& list) const {
    std::shared_ptr<const rollout::RoutedExperts> prompt;
    for (const Json& choice : choices)
      if (choice["index"] == 0)
        prompt = std::make_shared<const rollout::RoutedExperts>(
            experts(choice, "prompt_", std::ssize(request_.prompt)));
    for (const Json& choice : choices) {
      rollout::Completion& own = list[choice["index"].get<size_t>()];
      own.experts = experts(choice, "", std::ssize(own.token_ids) - 1);
      own.prompt_experts = prompt;
      if (own.experts.layers != prompt->layers || own.experts.chosen != prompt->chosen)
        refuse("experts of one shape",
               fmt::format("{} in {} layers and {} in {}", prompt->chosen, prompt->layers,
                           own.experts.chosen, own.experts.layers));
    }
  }

  rollout::RoutedExperts experts(const Json& choice,
                                 const std::string& prefix,
                                 int64_t tokens) const {
    const std::string name = prefix + "routed_experts", weights_name = prefix + "routed_weights";
    auto ids = net::read_number_block<int32_t>(field(choice, name.c_str(), Json::value_t::object));
    if (!ids || ids->shape.size() != 3 || ids->shape[0] != tokens || ids->shape[1] < 1 ||
        ids->shape[2] < 1 ||
        std::any_of(ids->values.begin(), ids->values.end(), [](int32_t id) { return id < 0; }))
      refuse(fmt::format("the experts of {} tokens in {}", tokens, name),
             ids ? fmt::format("those of a shape [{}]", fmt::join(ids->shape, ", ")) : "none");
    rollout::RoutedExperts made{ids->shape[1], ids->shape[2], std::move(ids->values), {}};
    if (request_.settings.record_experts != rollout::RecordExperts::kIdsAndWeights || !tokens)
      return made;
    auto weights =
        net::read_number_block<float>(field(choice, weights_name.c_str(), Json::value_t::object));
    if (!weights || weights->shape != ids->shape)
      refuse(fmt::format("as many weights in {} as experts", weights_name),
             weights ? weights->values.size() : 0);
    made.weights = std::move(weights->values);
    return made;
  }

  void read_logprobs(const Json& choice, rollout::Completion& made) const {
    const Json& logprobs = field(choice, "logprobs", Json::value_t::object);
    for (const Json& value : field(logprobs, "token_logprobs", Json::value_t::array)) {
      if (!value.is_number()) refuse("a log-probability of a token", dump_json(value));
      made.logprobs.push_back(static_cast<float>(value.get<double>()));
    }
    if (made.logprobs.size() != made.token_ids.size())
      refuse(fmt::format("{} log-probabilities", made.token_ids.size()), made.logprobs.size());
  }

  /// A server that narrows the distribution says what it drew with; vLLM's log-probabilities are
  /// that themselves.
  void read_processed(const Json& choice, rollout::Completion& made) const {
    if (!choice.contains("processed_logprobs") || choice["processed_logprobs"].is_null()) return;
    for (const Json& value : field(choice, "processed_logprobs", Json::value_t::array)) {
      if (!value.is_number()) refuse("a processed log-probability", dump_json(value));
      made.processed_logprobs.push_back(static_cast<float>(value.get<double>()));
    }
    if (made.processed_logprobs.size() != made.token_ids.size())
      refuse(fmt::format("{} processed log-probabilities", made.token_ids.size()),
             made.processed_logprobs.size());
  }

  /// All tokens must be of the version that was asked for.
  void check_versions(const Json& choice, int64_t tokens) const {
    int64_t covered = 0;
    for (const Json& span : field(choice, "weight_versions", Json::value_t::array)) {
      const auto version = field(span, "version", Json::value_t::string).get<std::string>();
      const Json& start = field(span, "start", Json::value_t::number_unsigned);
      const Json& end = field(span, "end", Json::value_t::number_unsigned);
      if (request_.weight_version && version != *request_.weight_version)
        refuse(fmt::format("weights {} for all tokens", *request_.weight_version), version);
      if (start.get<int64_t>() != covered || end < start)
        refuse(fmt::format("a span of versions from token {} on", covered), dump_json(span));
      covered = end.get<int64_t>();
    }
    if (covered != tokens) refuse(fmt::format("the weight versions of {} tokens", tokens), covered);
  }

  void read_end(const Json& choice, rollout::Completion& made) const {
    const auto reason = field(choice, "finish_reason", Json::value_t::string).get<std::string>();
    const rollout::RequestSettings& settings = request_.settings;
    const std::vector<int64_t>& stops = settings.stop_ids;
    const bool is_at_stop =
        std::find(stops.begin(), stops.end(), made.token_ids.back()) != stops.end();
    made.has_stop_token = is_at_stop && !settings.ignore_eos;
    if (reason == "length") {
      if (std::ssize(made.token_ids) != settings.max_new_tokens)
        refuse(fmt::format("{} tokens where the length ended them", settings.max_new_tokens),
               made.token_ids.size());
      return;
    }
    if (reason != "stop") refuse("stop or length as the end of a completion", reason);
    made.finish_reason = rollout::FinishReason::kStop;
    if (made.has_stop_token) return;
    if (settings.stop_strings.empty())
      refuse("a token that ends completions here", made.token_ids.back());
    const Json& string = choice.value("stop_reason", Json());
    if (string.is_string()) made.stop_string = string.get<std::string>();
  }

  const rollout::Request& request_;
  const std::string& where_;
  bool tells_versions_;
};

}  // namespace

Json completion_body(const rollout::Request& request, const std::string& model) {
  const rollout::RequestSettings& settings = request.settings;
  const ops::SamplingParameters& sampling = settings.sampling;
  Json body{{"model", model},
            {"prompt", request.prompt},
            {"n", request.num_samples},
            {"max_tokens", settings.max_new_tokens},
            {"temperature", sampling.temperature},
            {"top_p", sampling.top_p},
            {"top_k", sampling.top_k},
            {"min_p", sampling.min_p},
            {"repetition_penalty", sampling.repetition_penalty},
            {"seed", settings.seed},
            {"stop_token_ids", settings.stop_ids},
            {"ignore_eos", settings.ignore_eos},
            {"logprobs", 0},
            {"return_token_ids", true},
            {"lockstep", {{"occurrence", request.occurrence}, {"draw", request.draw}}}};
  if (!settings.stop_strings.empty()) body["stop"] = settings.stop_strings;
  if (sampling.frequency_penalty != 0) body["frequency_penalty"] = sampling.frequency_penalty;
  if (sampling.presence_penalty != 0) body["presence_penalty"] = sampling.presence_penalty;
  for (const auto& [id, bias] : sampling.logit_bias)
    body["logit_bias"][std::to_string(id)] = shortest_double(bias);
  if (settings.min_new_tokens) body["min_tokens"] = settings.min_new_tokens;
  if (settings.record_experts != rollout::RecordExperts::kNothing)
    body["lockstep"]["routed_experts"] = true;
  if (settings.record_experts == rollout::RecordExperts::kIdsAndWeights)
    body["lockstep"]["routed_weights"] = true;
  if (request.weight_version) body["weight_version"] = *request.weight_version;
  return body;
}

std::vector<rollout::Completion> read_completions(const Json& answer,
                                                  const rollout::Request& request,
                                                  const std::string& where) {
  return Reader(request, where, /*tells_versions=*/true).completions(answer);
}

Json vllm_completion_body(const rollout::Request& request, const std::string& model) {
  Json body = completion_body(request, model);
  body.erase("lockstep");
  body.erase("weight_version");
  // vLLM draws sample i with seed + i, and the same tokens for the same seed and prompt.
  const std::string key =
      dump_json({request.prompt, request.settings.seed, request.occurrence, request.draw});
  body["seed"] = digest_of(key).low >> 2;
  return body;
}

std::vector<rollout::Completion> read_vllm_completions(const Json& answer,
                                                       const rollout::Request& request,
                                                       const std::string& where) {
  return Reader(request, where, /*tells_versions=*/false).completions(answer);
}

}  // namespace lockstep::grpo
