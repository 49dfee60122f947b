// What a run that is taken up again may be told otherwise, and what it may not.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "grpo/options.h"
#include "grpo/run_directory.h"

namespace lockstep::grpo {

/// What another value of a flag means for a run that is resumed.
enum class ResumeRule : int {
  /// Another run would come out: refused unless --resume_changed true.
  kRefused,
  /// It names files, and what these hold decides, by its digest; another name is only said.
  kByContent,
  /// What is trained stays the same (with --threads and batches of the computation within
  /// rounding): said.
  kSaid,
  /// About one call of the program: not compared.
  kIgnored,
};

struct ResumeFlag {
  std::string_view name;
  ResumeRule rule;
};

/// Every flag of sft and grpo, once.
std::span<const ResumeFlag> resume_flags();

/// How two runs differ, one text a difference: "beta 0.04 before and 0.1 now".
struct ResumeChanges {
  std::vector<std::string> refused, said;
};

/// Compares the args.json of a checkpoint with the options of the run that resumes it. What one of
/// them does not name (an older version's) is not compared.
ResumeChanges compare_args(const Json& saved, const Json& now);

/// The args.json of a checkpoint; empty, with a warning, where it cannot be read.
Json saved_args(const ResumePoint& resume);

/// Compares the plan that the checkpoint's cursor is counted in, and adds what no flag says of it
/// to `changes`. False where it is another one. What the checkpoint does not name (an older
/// version's) is not compared. Throws ConfigError "bad-resume" for a checkpoint of another command.
bool compare_plans(const ResumePoint& resume,
                   const std::string& command,
                   const Json& plan,
                   ResumeChanges& changes);

/// Digests of what the flags name, for args.json: of each file of rows, and of the system prompt.
Json digest_data(const DataOptions& options, const std::string& system);

}  // namespace lockstep::grpo
