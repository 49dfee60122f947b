// The sampler's log-probability of every token against the trainer's, bit for bit, over many
// tokens.
// SPDX-License-Identifier: Apache-2.0
//
//   lockstep_exactness [tokens a case, 100000]
//
// For each family, dtype and thread count, as tests/e2e/exactness.h says. Exit status 1 where one
// token differs.
#include "tests/e2e/exactness.h"

#include <fmt/format.h>

namespace lockstep {
namespace {

int run(int64_t tokens) {
  int64_t different = 0;
  for (const model::Family family : testing::kFamilies)
    for (const auto dtype : {model::WeightDtype::kFloat32, model::WeightDtype::kBFloat16})
      for (const int threads : {1, 2}) {
        at::set_num_threads(threads);
        const testing::Tally tally = testing::compare_logprobs(family, dtype, tokens);
        fmt::print(
            "{:12} {:8} {} threads: {} tokens, longest sequence {}, different {}, largest "
            "difference {}\n",
            enum_name(family), enum_name(dtype), threads, tally.tokens, tally.longest,
            tally.different, tally.largest);
        std::fflush(stdout);
        different += tally.different;
      }
  return different ? 1 : 0;
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) { return lockstep::run(argc > 1 ? std::atoll(argv[1]) : 100000); }
