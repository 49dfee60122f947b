// SPDX-License-Identifier: Apache-2.0
#include "grpo/round_gathering.h"

#include <exception>
#include <utility>

#include "base/check.h"
#include "grpo/round_wire.h"
#include "model/decoder.h"
#include "model/expert_ranks.h"
#include "parallel/agreement.h"

namespace lockstep::grpo {

RewardedGroups gather_round(parallel::Group& ranks,
                            const RoundPart& own_part,
                            const std::vector<const Prompt*>& prompts,
                            const model::ModelWeights& weights,
                            const std::function<SampledGroups()>& sample,
                            const std::function<JudgedGroups(SampledGroups)>& judge) {
  SampledGroups sampled;
  std::exception_ptr error;
  try {
    sampled = sample();
  } catch (const std::exception&) {
    if (weights.expert_ranks() && weights.expert_ranks()->is_in_forward()) throw;
    error = std::current_exception();
  }
  model::join_forwards(weights);
  JudgedGroups own;
  const std::vector<std::string> all = parallel::gather_results(ranks, {"parts of a round"}, [&] {
    if (error) std::rethrow_exception(error);
    own = judge(std::move(sampled));
    return bytes_of_part(own);
  });
  std::vector<JudgedGroups> parts;
  for (size_t rank = 0; rank < own_part.size; ++rank) {
    const RoundPart part{rank, own_part.size};
    if (rank == own_part.rank) {
      LOCKSTEP_CHECK(own.groups.prompts == part.of(prompts), "rank {} has sampled other prompts",
                     rank);
      parts.push_back(std::move(own));
    } else {
      parts.push_back(read_part(all[rank], part.of(prompts)));
    }
  }
  return join_parts(std::move(parts));
}

}  // namespace lockstep::grpo
