// Checks which options a resumed run may change.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/on_resume.h"
#include "grpo/options.h"
#include "grpo/run_directory.h"

namespace lockstep::grpo {

/// What another value of each flag means for a resumed run, as the flags themselves say.
using ResumeRules = std::vector<std::pair<std::string, OnResume>>;

/// How two runs differ, with one text for each difference: "beta 0.04 before and 0.1 now".
struct ResumeChanges {
  std::vector<std::string> refused, said;
};

/// Compares the args.json of a checkpoint with the options of the run that resumes it, flag by
/// flag. A flag that one of them does not have, since it is of another version, is not compared.
ResumeChanges compare_args(const ResumeRules& rules, const Json& saved, const Json& now);

/// The args.json of a checkpoint; empty, after a warning, if it cannot be read.
Json saved_args(const ResumePoint& resume);

/// Compares the plan that the checkpoint's cursor is counted in, and adds what no flag says of it
/// to `changes`. False where it is another one. What the checkpoint does not name (an older
/// version's) is not compared. Throws ConfigError "bad-resume" for a checkpoint of another command.
bool compare_plans(const ResumePoint& resume,
                   const std::string& command,
                   const Json& plan,
                   ResumeChanges& changes);

/// The digests of what flags name, for args.json: those of each file of rows and of the system
/// prompt.
Json digest_data(const DataOptions& options, const std::string& system);

}  // namespace lockstep::grpo
