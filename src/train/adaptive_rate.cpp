// SPDX-License-Identifier: Apache-2.0
#include "train/adaptive_rate.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "train/schedule_keywords.h"

namespace lockstep::train {
namespace {

int64_t number(const Json& state, const char* name) {
  const auto found = state.find(name);
  if (found == state.end() || !found->is_number_integer())
    fail<FormatError>("bad-resume", std::string("schedule.") + name,
                      "expected a whole number, got {}",
                      found == state.end() ? "none" : dump_json(*found));
  return found->get<int64_t>();
}

}  // namespace

AdaptiveRate::AdaptiveRate(ScheduleType type,
                           const ScheduleKeywords& keywords,
                           double peak,
                           bool greater_is_better)
    : is_greedy_(type == ScheduleType::kGreedy), peak_(peak), rate_(peak) {
  const Range share{.low = 0, .high = 1, .low_open = true, .high_open = true};
  is_max_ = keywords.choice("mode", "max", "min", greater_is_better);
  is_relative_ = keywords.choice("threshold_mode", "rel", "abs", !is_greedy_);
  factor_ = keywords.number("factor", share).value_or(is_greedy_ ? 0.95 : 0.1);
  patience_ = keywords.count("patience").value_or(10);
  threshold_ = keywords.number("threshold", Range::at_least(0)).value_or(is_greedy_ ? 1e-6 : 1e-4);
  cooldown_ = keywords.count("cooldown").value_or(0);
  min_ = keywords.number("min_lr", Range::at_least(0)).value_or(is_greedy_ ? 1e-3 : 0);
  epsilon_ = keywords.number("eps", Range::at_least(0)).value_or(1e-8);
  max_ = std::numeric_limits<double>::infinity();
  smooths_ = false;
  if (!is_greedy_) return;
  max_ = keywords.number("max_lr", Range::at_least(0)).value_or(1);
  warmup_ = keywords.count("warmup").value_or(0);
  smooths_ = keywords.is_true("smooth");
  window_ = std::max<int64_t>(1, keywords.count("window_size").value_or(50));
  reset_start_ = until_reset_ = keywords.count("reset_start").value_or(500);
}

bool AdaptiveRate::is_better(double metric) const {
  if (!best_) return metric == metric;
  const double sign = is_max_ ? 1 : -1;
  const double bar = is_relative_ ? *best_ * (1 + sign * threshold_) : *best_ + sign * threshold_;
  return is_max_ ? metric > bar : metric < bar;
}

double AdaptiveRate::smoothed(double metric) {
  if (!smooths_) return metric;
  recent_.push_back(metric);
  sum_ += metric;
  if (std::ssize(recent_) > window_) {
    sum_ -= recent_.front();
    recent_.pop_front();
  }
  return sum_ / static_cast<double>(recent_.size());
}

void AdaptiveRate::observe(double metric) {
  metric = smoothed(metric);
  // While greedy waits, it does not look at metrics; the other one does.
  if (is_greedy_ && (cooling_ > 0 || warming_ > 0)) {
    --(cooling_ > 0 ? cooling_ : warming_);
    bad_ = good_ = 0;
    return;
  }
  if (is_better(metric)) {
    best_ = metric;
    bad_ = 0;
    ++good_;
  } else {
    ++bad_;
    good_ = 0;
  }
  if (!is_greedy_ && cooling_ > 0) {
    --cooling_;
    bad_ = 0;
  }
  if (is_greedy_ && good_ > patience_) {
    raise();
    warming_ = warmup_;
    good_ = 0;
  } else if (bad_ > patience_) {
    // As in transformers, what follows a reset waits, too.
    lower();
    cooling_ = cooldown_;
    bad_ = 0;
  }
}

void AdaptiveRate::lower() {
  const double lower = std::max(rate_ * factor_, min_);
  if (rate_ - lower > epsilon_) rate_ = lower;
  if (is_greedy_ && rate_ <= min_ && --until_reset_ <= 0) reset();
}

void AdaptiveRate::raise() {
  const double higher = std::min(rate_ / factor_, max_);
  if (higher - rate_ > epsilon_) rate_ = higher;
  until_reset_ = reset_start_;
}

void AdaptiveRate::reset() {
  rate_ = peak_;
  best_.reset();
  bad_ = good_ = cooling_ = warming_ = 0;
  until_reset_ = reset_start_;
  recent_.clear();
  sum_ = 0;
}

Json AdaptiveRate::state() const {
  return {{"rate", rate_},
          {"best", best_ ? Json(*best_) : Json()},
          {"bad", bad_},
          {"good", good_},
          {"cooling", cooling_},
          {"warming", warming_},
          {"until_reset", until_reset_},
          {"recent", recent_},
          {"sum", sum_}};
}

void AdaptiveRate::load_state(const Json& state) {
  if (!state.is_object()) return;
  const auto real = [&](const char* name, double standard) {
    const Json value = state.value(name, Json());
    return value.is_number() ? value.get<double>() : standard;
  };
  rate_ = real("rate", peak_);
  best_.reset();
  if (state.value("best", Json()).is_number()) best_ = state["best"].get<double>();
  bad_ = number(state, "bad");
  good_ = number(state, "good");
  cooling_ = number(state, "cooling");
  warming_ = number(state, "warming");
  until_reset_ = number(state, "until_reset");
  sum_ = real("sum", 0);
  recent_.clear();
  for (const Json& value : state.value("recent", Json::array()))
    if (value.is_number()) recent_.push_back(value.get<double>());
}

}  // namespace lockstep::train
