// What trainer and server tell each other: written, read back, compared.
// SPDX-License-Identifier: Apache-2.0
#include "net/rollout_protocol.h"

#include "base/json.h"
#include "tests/support/expect_error.h"

namespace lockstep::net {
namespace {

SamplerInfo example() {
  return {{.protocol = kRolloutProtocol,
           .model = "m",
           .configuration = "c",
           .tokenizer = "t",
           .chat_template = "j",
           .dtype = "bfloat16",
           .is_exact = false},
          4096,
          17};
}

TEST(RolloutProtocol, WhatIsWrittenIsReadBack) {
  const SamplerInfo read = sampler_info(parse_json(dump_json(to_json(example())), "wire"), "s");
  EXPECT_TRUE(differences(example().identity, read.identity).empty());
  EXPECT_EQ(read.max_model_len, 4096);
  EXPECT_EQ(read.max_num_seqs, 17);
  EXPECT_FALSE(read.identity.is_exact);
}

TEST(RolloutProtocol, EveryFieldOfTheIdentityIsCompared) {
  for (const char* field :
       {"model", "configuration", "tokenizer", "chat_template", "dtype", "exact"}) {
    Json object = to_json(example());
    object[field] = object[field].is_boolean() ? Json(true) : Json("other");
    const auto found = differences(example().identity, sampler_info(object, "s").identity);
    ASSERT_EQ(found.size(), 1u) << field;
    EXPECT_EQ(found[0].field, field);
    EXPECT_NE(found[0].expected, found[0].found);
  }
}

TEST(RolloutProtocol, AnotherProtocolIsADifferenceWhateverElseIsThere) {
  const SamplerInfo read = sampler_info({{"protocol", kRolloutProtocol + 1}}, "s");
  EXPECT_EQ(differences(example().identity, read.identity)[0].field, "protocol");
}

TEST(RolloutProtocol, AFieldThatIsMissingOrOfAnotherTypeIsNamed) {
  const Json whole = to_json(example());
  for (const auto& [name, value] : whole.items()) {
    Json less = whole, other = whole;
    less.erase(name);
    other[name] = Json::array();
    EXPECT_ERROR(sampler_info(less, "http://s"), FormatError, "bad-server-info",
                 "lockstep." + name + ", got nothing");
    EXPECT_ERROR(sampler_info(other, "http://s"), FormatError, "bad-server-info", "got []");
  }
  EXPECT_ERROR(sampler_info(Json(), "http://s"), FormatError, "bad-server-info",
               "http://s: expected an object");
}

TEST(RolloutProtocol, ALabelNamesStepAndWeights) {
  EXPECT_EQ(weight_label(12, "ab"), "step-12:ab");
  EXPECT_EQ(base_label("ab"), "base:ab");
  EXPECT_EQ(answer_fingerprint("step-12:ab", ""), "lockstep-step-12:ab");
  EXPECT_EQ(answer_fingerprint("base:ab", "cd"), "lockstep-base:ab+cd");
}

}  // namespace
}  // namespace lockstep::net
