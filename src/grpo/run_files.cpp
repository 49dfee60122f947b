// SPDX-License-Identifier: Apache-2.0
#include "grpo/run_files.h"

#include <charconv>
#include <utility>

#include "base/check.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "parallel/agreement.h"

namespace lockstep::grpo {
namespace {

namespace fs = std::filesystem;

std::string bytes_of(const Json& value) {
  const std::vector<uint8_t> packed = Json::to_msgpack(value);
  return {packed.begin(), packed.end()};
}

/// What the others are to know of a claim.
Json json_of(const RunClaim& claim) {
  Json told{{"path", claim.path.string()}, {"resume", Json()}};
  if (const auto& resume = claim.resume)
    told["resume"] = {{"directory", resume->directory.string()},
                      {"global_step", resume->global_step},
                      {"is_same_run", resume->is_same_run},
                      {"state", resume->state}};
  return told;
}

RunClaim claim_of(const Json& told) {
  RunClaim claim{.path = told.at("path").get<std::string>(), .resume = {}, .lock = nullptr};
  const Json& resume = told.at("resume");
  if (!resume.is_null())
    claim.resume = ResumePoint{.directory = resume.at("directory").get<std::string>(),
                               .global_step = resume.at("global_step").get<int64_t>(),
                               .is_same_run = resume.at("is_same_run").get<bool>(),
                               .state = resume.at("state")};
  return claim;
}

}  // namespace

RunClaim claim_together(const RunOptions& options,
                        std::span<const InputPath> inputs,
                        parallel::Group& ranks) {
  RunClaim own;
  const std::string told = parallel::do_on_first(ranks, {"claim of the run directory"}, [&] {
    own = claim_run(options, inputs);
    return bytes_of(json_of(own));
  });
  return ranks.is_first() ? own : claim_of(Json::from_msgpack(told));
}

RunFiles::RunFiles(const RunOptions& options,
                   const Json& args,
                   const RunClaim& claim,
                   parallel::Group& ranks)
    : ranks_(ranks), has_optimizer_(!options.save_only_model) {
  path_ = parallel::do_on_first(ranks, {"making the run directory"}, [&] {
    directory_ = std::make_unique<RunDirectory>(options, args, claim);
    return directory_->path().string();
  });
}

template <class Action>
void RunFiles::write(Action&& action) {
  if (!directory_ || error_) return;
  try {
    action(*directory_);
  } catch (const std::exception&) {
    error_ = std::current_exception();
  }
}

fs::path RunFiles::checkpoint(int64_t step) const { return path_ / checkpoint_name(step); }

bool RunFiles::has_checkpoint(int64_t step) {
  return parallel::do_on_first(ranks_, {"look for a checkpoint"}, [&] {
           return std::string(fs::exists(checkpoint(step)) ? "there" : "");
         }) == "there";
}

void RunFiles::log(const Json& line, int64_t step) {
  write([&](RunDirectory& directory) { directory.log(line, step); });
}

void RunFiles::log_completions(const Json& line) {
  write([&](RunDirectory& directory) { directory.log_completions(line); });
}

void RunFiles::keep_split_rows(const std::string& lines) {
  write([&](RunDirectory& directory) { directory.keep_split_rows(lines); });
}

void RunFiles::save(const train::LoadedModel& model,
                    train::GatheredLayers& layers,
                    const train::AdamW& optimizer,
                    int64_t step,
                    const Json& trainer_state,
                    const LoopState& loop_state) {
  // The first rank alone writes an adapter, and modules of layers that are saved in it.
  if (model.adapter) layers.gather_all();
  const std::vector<io::TensorPart> state = optimizer.state_parts();
  const fs::path folder = parallel::do_on_first(ranks_, {"beginning of a checkpoint"}, [&] {
    if (error_) std::rethrow_exception(error_);
    return directory_->begin_save(model, state, step, trainer_state, loop_state).string();
  });
  parallel::do_together(ranks_, {"parts of a checkpoint"}, [&] {
    if (!model.adapter)
      io::write_checkpoint_parts(folder, train::checkpoint_parts(model, optimizer.shards()));
    if (has_optimizer_) io::write_parts(optimizer_file(folder), state);
  });
  write([&](RunDirectory& directory) {
    const fs::path saved = directory.finish_save();
    if (report_) report_->update();
    log_info("saved {}", saved.string());
  });
}

void RunFiles::save_merged(const train::LoadedModel& base, model::WeightDtype dtype) {
  write([&](RunDirectory& directory) {
    log_info("merged: {}", directory.save_merged(base, dtype).string());
  });
}

void RunFiles::choose_best(std::optional<int64_t> step) {
  write([&](RunDirectory& directory) { directory.choose_best(step); });
}

void RunFiles::end_with_best() {
  write([&](RunDirectory& directory) { directory.end_with_best(); });
}

void RunFiles::make_report() {
  write([&](RunDirectory&) { report_ = std::make_unique<report::RunReport>(path_); });
}

void RunFiles::write_report() {
  if (report_) report_->write();
}

int RunFiles::settle(const char* what) {
  const auto signals = parallel::gather_results(ranks_, {what}, [&] {
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    return std::to_string(interrupt_signal());
  });
  for (const std::string& text : signals) {
    int signal = 0;
    std::from_chars(text.data(), text.data() + text.size(), signal);
    note_interrupt(signal);
    if (signal) return signal;
  }
  return 0;
}

}  // namespace lockstep::grpo
