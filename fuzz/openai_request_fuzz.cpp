// SPDX-License-Identifier: Apache-2.0
#include <string_view>

#include "base/check.h"
#include "fuzz/fuzz_targets.h"
#include "serve/openai_request.h"

namespace lockstep::fuzz {
namespace {

constexpr serve::RequestBounds kBounds{.vocab_size = 1000, .max_logprobs = 20};

/// What holds of every request that is accepted, whatever its kind.
void check_request(const serve::OpenAiRequest& request) {
  const auto& settings = request.settings;
  LOCKSTEP_CHECK(request.num_samples >= 1 && request.num_samples <= serve::kMaxSamples, "n is {}",
                 request.num_samples);
  LOCKSTEP_CHECK(request.is_chat ? request.chat.messages.size() > 0 : !request.prompts.empty(),
                 "nothing to answer");
  LOCKSTEP_CHECK(settings.top_logprobs >= 0 && settings.top_logprobs <= kBounds.max_logprobs,
                 "top_logprobs is {}", settings.top_logprobs);
  LOCKSTEP_CHECK(settings.stop_strings.size() <= serve::kMaxStopStrings, "too many stop strings");
  for (const std::string& stop : settings.stop_strings) LOCKSTEP_CHECK(!stop.empty(), "empty stop");
  for (const int64_t id : settings.stop_ids)
    LOCKSTEP_CHECK(id >= 0 && id < kBounds.vocab_size, "stop id {}", id);
  for (const auto& [id, bias] : settings.sampling.logit_bias)
    LOCKSTEP_CHECK(id >= 0 && id < kBounds.vocab_size && bias >= -100 && bias <= 100, "bias {}",
                   id);
  for (const auto& prompt : request.prompts)
    if (const auto* ids = std::get_if<std::vector<int64_t>>(&prompt))
      for (const int64_t id : *ids)
        LOCKSTEP_CHECK(id >= 0 && id < kBounds.vocab_size, "prompt id {}", id);
  LOCKSTEP_CHECK(!request.max_tokens || settings.min_new_tokens <= *request.max_tokens,
                 "min_tokens is above max_tokens");
}

template <class Parse>
int accepted(const Parse& parse) {
  try {
    parse();
  } catch (const RequestError& error) {
    LOCKSTEP_CHECK(error.status() == 400, "status {}", error.status());
    return 0;
  }
  return 1;
}

std::string_view text_of(std::span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

int fuzz_completion_request(std::span<const uint8_t> bytes) {
  return accepted([&] { check_request(serve::parse_completion_request(text_of(bytes), kBounds)); });
}

int fuzz_chat_request(std::span<const uint8_t> bytes) {
  return accepted([&] { check_request(serve::parse_chat_request(text_of(bytes), kBounds)); });
}

int fuzz_tokenize_request(std::span<const uint8_t> bytes) {
  return accepted([&] { serve::parse_tokenize_request(text_of(bytes)); }) |
         accepted([&] { serve::parse_detokenize_request(text_of(bytes), kBounds); });
}

}  // namespace lockstep::fuzz
