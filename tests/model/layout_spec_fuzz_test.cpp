// Names of layouts that were changed at random.
// SPDX-License-Identifier: Apache-2.0
#include "fuzz/fuzz_targets.h"
#include "tests/support/fuzz_replay.h"

namespace lockstep::fuzz {
namespace {

TEST(Fuzz, LayoutSpecsSurviveMutations) {
  replay(fuzz_layout_spec,
         {"checkpoint:experts=grouped,prefix=flat", "hf-runtime", "fsdp2:world=3",
          "megatron:tp=2,pp=1,ep=4,etp=1,gate=group,gdn=part,out_norm=centred",
          "vllm:tp=2,ep=4,dp=2", "vllm:version=0.32,dtype=float32,tp=2",
          "vllm-ascend:tp=2,ep=2,state=processed", "qwen3-next", "lockstep:tp=2,ep=3"},
         20000);
}

}  // namespace
}  // namespace lockstep::fuzz
