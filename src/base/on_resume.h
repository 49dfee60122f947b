// What another value of an option means for a run that is resumed: a trait of a field, as its Range
// is (base/options.h).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/options.h"

namespace lockstep {

/// What another value of a flag means for a run that is resumed (grpo/resume_check.h). A field that
/// says nothing has the first.
enum class OnResume : int {
  /// It would be another run: refused unless --resume_changed true.
  kRefused,
  /// The flag names files, whose digests decide; another name is only said.
  kByContent,
  /// What is trained stays the same (with other threads or micro-batches within rounding): it is
  /// said.
  kSaid,
  /// The flag is about one call of the program: it is not compared.
  kIgnored,
};

/// The range and the OnResume among what a field says besides its help, in that order; each may be
/// left out.
constexpr Range range_of() { return {}; }
constexpr Range range_of(const Range& range, OnResume = {}) { return range; }
constexpr Range range_of(OnResume) { return {}; }
constexpr OnResume on_resume() { return OnResume::kRefused; }
constexpr OnResume on_resume(OnResume rule) { return rule; }
constexpr OnResume on_resume(const Range&, OnResume rule = OnResume::kRefused) { return rule; }

}  // namespace lockstep
