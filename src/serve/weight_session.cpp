// SPDX-License-Identifier: Apache-2.0
#include "serve/weight_session.h"

#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace lockstep::serve {
namespace {

[[noreturn]] void refuse(int status, const char* code, const std::string& message) {
  throw RequestError(status, code, "", message);
}

}  // namespace

WeightSession::WeightSession(rollout::EngineService& engine,
                             WeightLoader loader,
                             std::function<std::map<std::string, std::string>()> initial_checksums,
                             const WeightSessionLimits& limits)
    : engine_(engine),
      loader_(std::move(loader)),
      initial_checksums_(std::move(initial_checksums)),
      limits_(limits) {}

WeightSession::~WeightSession() {
  if (loading_.joinable()) loading_.join();
}

void WeightSession::drop() {
  is_open_ = false;
  staged_.reset();
}

void WeightSession::expect_trainer(const std::string& trainer) const {
  if (!trainer.empty() && trainer != trainer_)
    refuse(409, "other-session",
           fmt::format("expected the trainer that came last ({}), got {} "
                       "(/init_weight_transfer_engine makes it the last)",
                       trainer_.empty() ? "without a name" : trainer_, trainer.substr(0, 80)));
}

void WeightSession::init(std::string trainer) {
  trainer_ = std::move(trainer);
  if (is_open_) log_info("weights: a new trainer closes the update that was left open");
  drop();
  loader_.release();
}

void WeightSession::start() {
  if (is_open_)
    refuse(409, "update-open",
           "expected no open update, got one (finish it, or call /init_weight_transfer_engine)");
  if (late_swap_.valid()) {
    if (late_swap_.wait_for(std::chrono::seconds(0)) != std::future_status::ready)
      refuse(409, "update-open", "the sampler has not taken the last weights yet");
    try {
      std::exchange(late_swap_, {}).get();
      checksums_ = std::move(late_checksums_);
    } catch (const std::exception& error) {
      log_warning("weights: a late swap failed: {}", error.what());
    }
  }
  is_open_ = true;
}

void WeightSession::expect_idle_loader() {
  if (loaded_.valid() && loaded_.wait_for(std::chrono::seconds(0)) != std::future_status::ready)
    refuse(503, "still-loading", "weights whose deadline passed are still being read");
  loaded_ = {};
  if (loading_.joinable()) loading_.join();
}

LoadedWeights WeightSession::load(const OfferedWeights& offered) {
  expect_idle_loader();
  std::packaged_task<LoadedWeights()> task([this, offered] { return loader_.load(offered); });
  loaded_ = task.get_future();
  loading_ = std::thread(std::move(task));
  if (loaded_.wait_for(limits_.load_timeout) != std::future_status::ready)
    refuse(504, "deadline",
           fmt::format("{}: not read whole within {} ms", offered.where(),
                       limits_.load_timeout.count()));
  try {
    return std::exchange(loaded_, {}).get();
  } catch (const RequestError&) {
    throw;
  } catch (const Error& error) {
    // Weights that do not fit are the request's mistake, whatever shows it.
    throw RequestError(error.code() == "digest-mismatch" ? 409 : 400, error.code(), offered.field(),
                       error.what());
  }
}

void WeightSession::update(const OfferedWeights& offered) {
  if (!is_open_)
    refuse(409, "no-update", "expected an open update, got none (call /start_weight_update first)");
  staged_.reset();
  try {
    const std::filesystem::path& folder = offered.folder;
    if (offered.is_folder() && (folder.empty() || !folder.is_absolute()))
      throw RequestError(400, "bad-request", "update_info.path",
                         fmt::format("expected the absolute path of a checkpoint's folder, got "
                                     "\"{}\"",
                                     folder.string()));
    staged_ = load(offered);
    if (!offered.digest.empty() && staged_->digest != offered.digest)
      refuse(409, "digest-mismatch",
             fmt::format("{}: expected tensors of digest {}, got {}", offered.where(),
                         offered.digest, staged_->digest));
  } catch (...) {
    drop();
    throw;
  }
}

std::string WeightSession::finish(const std::string& version) {
  if (!is_open_)
    refuse(409, "no-update", "expected an open update, got none (call /start_weight_update first)");
  if (!staged_)
    refuse(409, "nothing-staged",
           "expected weights from /update_weights, got none: the old ones stay");
  LoadedWeights staged = std::move(*staged_);
  drop();
  const std::string label = version.empty() ? staged.digest : version;
  // Shared: the sampler may call after the deadline.
  const auto swapped = std::make_shared<std::promise<void>>();
  auto done = swapped->get_future();
  engine_.swap_weights(std::move(staged.weights), label, [swapped](std::exception_ptr error) {
    if (error)
      swapped->set_exception(error);
    else
      swapped->set_value();
  });
  if (done.wait_for(limits_.swap_timeout) != std::future_status::ready) {
    late_swap_ = std::move(done);
    late_checksums_ = std::move(staged.checksums);
    refuse(504, "deadline",
           fmt::format("the sampler did not take the weights within {} ms; /weight_info says which "
                       "ones it has",
                       limits_.swap_timeout.count()));
  }
  try {
    done.get();
  } catch (const std::exception& error) {
    refuse(
        500, "swap-failed",
        fmt::format("the sampler did not take the weights, the old ones stay: {}", error.what()));
  }
  checksums_ = std::move(staged.checksums);
  return label;
}

void WeightSession::shutdown() {
  if (is_open_)
    refuse(409, "update-open",
           "expected no open update, got one (finish it, or call /init_weight_transfer_engine)");
  loader_.release();
}

const std::map<std::string, std::string>& WeightSession::checksums() {
  if (!checksums_) checksums_ = initial_checksums_();
  return *checksums_;
}

}  // namespace lockstep::serve
