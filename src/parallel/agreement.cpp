// SPDX-License-Identifier: Apache-2.0
#include "parallel/agreement.h"

#include <algorithm>
#include <exception>
#include <span>

#include "base/check.h"
#include "base/interrupt.h"

namespace lockstep::parallel {
namespace {

/// What the first byte says of the rest: a result, the number of a signal, or how an error reads.
constexpr char kResult = 'r', kInterrupted = 'i', kFailed = 'f';

/// What `work` comes to; `error` is set where it throws.
std::string outcome_of(const std::function<std::string()>& work, std::exception_ptr& error) {
  try {
    return kResult + work();
  } catch (const InterruptedError&) {
    error = std::current_exception();
    return {kInterrupted, static_cast<char>(interrupt_signal())};
  } catch (const std::exception& failed) {
    error = std::current_exception();
    return kFailed + std::string(failed.what());
  }
}

/// Throws what stopped another rank.
[[noreturn]] void throw_error_of(size_t rank, const std::string& outcome, const Call& call) {
  if (outcome.front() == kFailed)
    fail<PeerError>("rank-failed", call.name, "expected all ranks to do it, got of rank {}: {}",
                    rank, outcome.substr(1));
  note_interrupt(outcome[1]);
  fail<InterruptedError>("interrupted", fmt::format("rank {}", rank), "expected to finish, got {}",
                         interrupt_name());
}

template <class Number>
std::vector<Number> numbers_of(Group& ranks, Number own, const Call& call) {
  std::vector<Number> all(static_cast<size_t>(ranks.size()));
  ranks.all_gather(std::as_bytes(std::span(&own, 1)), std::as_writable_bytes(std::span(all)), call);
  return all;
}

}  // namespace

std::vector<std::string> gather_results(Group& ranks,
                                        const Call& call,
                                        const std::function<std::string()>& work) {
  std::exception_ptr error;
  const std::string own = outcome_of(work, error);
  std::vector<std::string> all;
  try {
    all = ranks.gather(own, call);
  } catch (const std::exception&) {
    // That others are gone matters less than why this rank would have left them.
    if (error) std::rethrow_exception(error);
    throw;
  }
  if (error) std::rethrow_exception(error);
  // An error says more than that somebody was interrupted.
  for (const char kind : {kFailed, kInterrupted})
    for (size_t rank = 0; rank < all.size(); ++rank)
      if (all[rank].front() == kind) throw_error_of(rank, all[rank], call);
  for (std::string& result : all) result.erase(0, 1);
  return all;
}

void do_together(Group& ranks, const Call& call, const std::function<void()>& work) {
  gather_results(ranks, call, [&] {
    work();
    return std::string();
  });
}

std::string do_on_first(Group& ranks, const Call& call, const std::function<std::string()>& work) {
  return std::move(gather_results(ranks, call, [&] {
                     return ranks.is_first() ? work() : std::string();
                   }).front());
}

double least_of(Group& ranks, double own, const Call& call) {
  const std::vector<double> all = numbers_of(ranks, own, call);
  return *std::min_element(all.begin(), all.end());
}

void throw_if_any_interrupted(Group& ranks) {
  const std::vector<int> signals = numbers_of(ranks, interrupt_signal(), {"signals"});
  for (const int signal : signals) note_interrupt(signal);
  // One that has come here meanwhile is seen by all the next time.
  if (std::any_of(signals.begin(), signals.end(), [](int signal) { return signal != 0; }))
    throw_if_interrupted();
}

}  // namespace lockstep::parallel
