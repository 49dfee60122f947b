// Each flag of sft and grpo says what another value of it means for a resumed run.
// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "base/json.h"
#include "cli/command.h"
#include "grpo/grpo.h"
#include "grpo/resume_check.h"
#include "grpo/sft.h"

namespace lockstep::cli {
namespace {

template <class Options>
void add_groups(FlagSet& flags, Options& options) {
  options.for_each_group([&](const char* name, auto& group) { flags.add_group(name, group); });
}

std::set<std::string> names_of(const FlagSet& flags) {
  const Json all = flags.to_json();
  std::set<std::string> names;
  for (const auto& [name, value] : all.items()) names.insert(name);
  return names;
}

TEST(ResumeFlags, EveryFlagStandsInTheListOnce) {
  grpo::TrainingOptions training;
  grpo::SftOptions own;
  CommonOptions sft_common, grpo_common;
  FlagSet sft("sft", ""), grpo("grpo", "");
  add_groups(sft, training);
  sft.add_group("sft", own);
  sft.add_group("every command", sft_common);
  grpo::GrpoRunOptions options;
  add_groups(grpo, options);
  grpo.add_group("every command", grpo_common);

  std::set<std::string> flags = names_of(sft);
  flags.merge(names_of(grpo));
  std::map<std::string, int> listed;
  for (const auto& flag : grpo::resume_flags()) ++listed[std::string(flag.name)];
  for (const std::string& flag : flags)
    EXPECT_EQ(listed[flag], 1) << flag
                               << ": say in grpo/resume_check.cpp what another value of it "
                                  "means for a run that is resumed";
  for (const auto& [name, count] : listed)
    EXPECT_TRUE(flags.contains(name)) << name << " is no flag";
}

}  // namespace
}  // namespace lockstep::cli
