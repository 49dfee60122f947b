// lockstep rollout: serves a model over HTTP until it is told to stop.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <sys/resource.h>
#include <thread>

#include "agent/served_turns.h"
#include "base/check.h"
#include "base/interrupt.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/commands/model_command.h"
#include "cli/flag_classes.h"
#include "cli/offered_weights.h"
#include "grpo/group_sampler.h"  // stop_ids_of
#include "model/identity.h"
#include "net/rollout_protocol.h"
#include "rollout/engine_thread.h"
#include "serve/control_routes.h"
#include "serve/error_answer.h"
#include "serve/openai_routes.h"
#include "text/identity.h"
#include "train/adapter_file.h"

namespace lockstep::cli {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

struct ServeOptions {
  std::string model, host = "127.0.0.1", api_key;
  std::vector<std::string> adapters, served_model_name;
  int64_t port = 8000, max_logprobs = 20;
  std::optional<double> request_timeout;
  double shutdown_timeout = 30;
  bool update_in_place = false;
  std::optional<bool> enable_thinking;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("model", model, "Checkpoint directory.");
    visit("adapters", adapters,
          "Adapters to serve beside it, as NAME=PATH; a request names one as its model.");
    visit("host", host, "Address to listen at; 0.0.0.0: all of this machine's.");
    visit("port", port, "Port to listen at; 0: a free one, which the first line names.",
          Range::between(0, 65'535));
    visit("api_key", api_key,
          "Key that requests must bring; unset: LOCKSTEP_API_KEY in the environment, or none.");
    visit("served_model_name", served_model_name,
          "What requests may call the model; unset: its path as given, and its folder's name.");
    visit("max_logprobs", max_logprobs,
          "How many of the most likely tokens a request may ask for; -1: the whole vocabulary.",
          Range::at_least(-1));
    visit("request_timeout", request_timeout,
          "Seconds after which a request ends with what it has; unset: never.", Range::above(0));
    visit("shutdown_timeout", shutdown_timeout,
          "Seconds that running requests have to finish after Ctrl-C or SIGTERM.",
          Range::at_least(0));
    visit("update_in_place", update_in_place,
          "Makes a trainer's weights when the old ones are gone: half the memory. Requests wait "
          "meanwhile, and if it breaks off they are refused until other weights come.");
    visit("enable_thinking", enable_thinking,
          "Handed to the chat template; unset: the template decides.");
  }
};

std::chrono::milliseconds milliseconds_of(double seconds) {
  // A year is as good as for ever, and its milliseconds fit.
  return std::chrono::milliseconds(static_cast<int64_t>(std::min(seconds, 3.2e7) * 1e3));
}

bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

/// Lets as many connections be open as the system allows, and returns for how many there is room.
int64_t raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 512;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  ::getrlimit(RLIMIT_NOFILE, &limit);
  // The rest is for files, for the threads' own needs, and for those who are turned away.
  constexpr int64_t kOthers = 256, kMost = 16'384;
  return std::clamp(static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, 1 << 20)) - kOthers,
                    int64_t{16}, kMost);
}

net::SamplerIdentity identity_of(const train::LoadedModel& loaded, bool is_exact) {
  const model::ModelWeights& weights = *loaded.weights;
  return {.model = model::tensors_digest(weights).hex(),
          .configuration = model::configuration_digest(weights.config()).hex(),
          .tokenizer = text::tokenizer_digest(loaded.directory).hex(),
          .chat_template = text::template_digest(loaded.directory).hex(),
          .dtype = std::string(enum_name(weights.weight_dtype())),
          .is_exact = is_exact};
}

/// The chat template with its tokenizer; null for a checkpoint that has none.
std::unique_ptr<text::ChatEncoder> find_chat(const ServeOptions& options) {
  try {
    return std::make_unique<text::ChatEncoder>(options.model, options.enable_thinking);
  } catch (const FormatError& error) {
    if (error.code() != "missing-template") throw;
    log_warning("{}: no chat template, so /v1/chat/completions is refused", options.model);
    return nullptr;
  }
}

std::vector<std::string> names_of(const ServeOptions& options) {
  if (!options.served_model_name.empty()) return options.served_model_name;
  std::filesystem::path path = options.model;
  if (!path.has_filename()) path = path.parent_path();
  std::vector<std::string> names{options.model};
  if (path.filename() != options.model) names.push_back(path.filename());
  return names;
}

/// Throws ConfigError "unsupported-adapter" for one that no request can name.
serve::LoadedAdapter loaded_adapter(const std::string& where,
                                    const train::CheckpointSource& base,
                                    std::shared_ptr<model::Adapter> adapter) {
  train::check_base_copies(*adapter, base);
  // Adapters share one model in a step. vLLM refuses such a one, too.
  if (!adapter->saved().empty())
    fail<ConfigError>("unsupported-adapter", where,
                      "expected an adapter beside the served model, got one that replaces {} of "
                      "its tensors (modules_to_save {}); export --merge_lora true makes a model of "
                      "both, which can be served",
                      adapter->saved().size(), dump_json(Json(adapter->config().modules_to_save)));
  return {.digest = model::adapter_digest(*adapter).hex(),
          .num_pairs = std::ssize(adapter->targets()),
          .adapter = std::move(adapter)};
}

/// The adapters of --adapters, as NAME=PATH, that are yet to be loaded. Throws ConfigError
/// "bad-flag".
std::vector<serve::ServedAdapter> named_adapters(const ServeOptions& options,
                                                 const std::string& where) {
  std::vector<serve::ServedAdapter> adapters;
  for (const std::string& given : options.adapters) {
    const size_t sign = given.find('=');
    const auto refuse = [&](const std::string& problem) {
      fail<ConfigError>("bad-flag", where, "{} ({})", problem, given);
    };
    if (sign == given.npos || sign + 1 == given.size())
      refuse("expected NAME=PATH, got no " + std::string(sign == given.npos ? "name" : "path"));
    serve::ServedAdapter one{given.substr(0, sign), given.substr(sign + 1), {}};
    const std::string problem = serve::adapter_name_problem(one.name, names_of(options));
    if (!problem.empty()) refuse(problem);
    for (const serve::ServedAdapter& other : adapters)
      if (other.name == one.name) refuse("expected each name once, got " + one.name + " twice");
    adapters.push_back(std::move(one));
  }
  return adapters;
}

/// All that serves, in the order in which it is made. The server is the first to end.
class Service {
 public:
  /// Listens at once, so that a busy port is known before a model is loaded; until start(),
  /// requests are told that the model is being loaded.
  Service(const ServeOptions& options,
          const agent::ServedTurns& turns,
          std::vector<serve::ServedAdapter> adapters)
      : options_(options), turns_(turns), adapters_(std::move(adapters)) {
    const serve::HttpLimits limits{.max_connections = raise_descriptor_limit()};
    server_ = std::make_unique<serve::HttpServer>(
        options.host, static_cast<uint16_t>(options.port), limits,
        [this](serve::HttpRequest&& request, std::shared_ptr<serve::HttpResponder> responder) {
          handle(std::move(request), responder);
        },
        [](int status, std::string_view message) { return serve::error_body(status, message); });
  }

  void start(CommandContext& context,
             const rollout::EngineOptions& engine_options,
             const rollout::ServiceOptions& service_options);
  /// Returns when a signal has come, all requests have ended or been cut off.
  void wait_and_stop();

 private:
  void handle(serve::HttpRequest&& request, const std::shared_ptr<serve::HttpResponder>& responder);
  void make_api(const text::Tokenizer& tokenizer, std::vector<int64_t> stop_ids);
  void add_routes(const net::SamplerIdentity& identity);

  const ServeOptions& options_;
  const agent::ServedTurns& turns_;
  /// Of --adapters, until they are served.
  std::vector<serve::ServedAdapter> adapters_;
  train::LoadedModel loaded_;
  std::unique_ptr<text::ChatEncoder> chat_;
  std::unique_ptr<text::Tokenizer> own_tokenizer_;
  serve::ServerMetrics metrics_;
  std::unique_ptr<rollout::EngineThread> engine_;
  std::unique_ptr<serve::MeteredEngine> metered_;
  std::optional<OfferedWeightsLoader> loader_;
  std::unique_ptr<serve::ControlRoutes> control_;
  std::unique_ptr<serve::OpenAiApi> api_;
  std::unique_ptr<serve::Router> router_;
  std::atomic<bool> is_ready_{false};
  std::unique_ptr<serve::HttpServer> server_;
};

void Service::handle(serve::HttpRequest&& request,
                     const std::shared_ptr<serve::HttpResponder>& responder) {
  if (is_ready_) return router_->handle(std::move(request), responder);
  serve::respond_error(*responder,
                       RequestError(503, "loading", "", "the model is still being loaded"));
}

void Service::start(CommandContext& context,
                    const rollout::EngineOptions& engine_options,
                    const rollout::ServiceOptions& service_options) {
  loaded_ = load_for_command(context, options_.model);
  chat_ = find_chat(options_);
  if (!chat_)
    own_tokenizer_ =
        std::make_unique<text::Tokenizer>(text::Tokenizer::from_directory(options_.model));
  const text::Tokenizer& tokenizer = chat_ ? chat_->tokenizer() : *own_tokenizer_;
  const auto identity = identity_of(loaded_, context.common.exact);
  const auto stop_ids = grpo::stop_ids_of(options_.model, loaded_.weights->config(), &tokenizer);
  for (serve::ServedAdapter& one : adapters_) {
    one.loaded = loaded_adapter(one.path, *loaded_.source,
                                load_adapter_for_command(one.path, loaded_.weights->parameters()));
    train::warn_of_other_base(one.path, options_.model);
  }
  loader_.emplace(loaded_, identity, context.common.torch_dtype,
                  options_.update_in_place ? UpdateMemory::kInPlace : UpdateMemory::kBeside);
  engine_ = std::make_unique<rollout::EngineThread>(
      rollout::EngineThread::Setup{.weights = std::move(loaded_.weights),
                                   .engine = engine_options,
                                   .service = service_options,
                                   .tokenizer = &tokenizer,
                                   .exact = context.common.exact});
  metered_ = std::make_unique<serve::MeteredEngine>(*engine_, metrics_);
  make_api(tokenizer, stop_ids);
  add_routes(identity);
  is_ready_ = true;
  const rollout::EngineFacts& facts = engine_->facts();
  log_info(
      "rollout: ready at http://{}:{}, serving {} (up to {} sequences at once, {} tokens "
      "each)",
      options_.host.find(':') == std::string::npos ? options_.host : "[" + options_.host + "]",
      server_->port(), names_of(options_)[0], facts.max_num_seqs, facts.max_model_len);
}

void Service::make_api(const text::Tokenizer& tokenizer, std::vector<int64_t> stop_ids) {
  serve::OpenAiOptions api{.model_names = names_of(options_),
                           .model_root = options_.model,
                           .adapters = std::move(adapters_),
                           .eos_ids = std::move(stop_ids),
                           .max_logprobs = options_.max_logprobs};
  api.load_adapter = [this](const serve::OfferedWeights& offered) {
    const auto weights = engine_->weights();
    if (!weights)
      fail<ConfigError>("poisoned", "model",
                        "expected the model's weights beside an adapter, got none: an update of "
                        "them is under way or broke off");
    return loaded_adapter(offered.where(), *loaded_.source,
                          loader_->load_adapter(offered, weights->parameters()));
  };
  if (options_.request_timeout) api.request_timeout = milliseconds_of(*options_.request_timeout);
  api_ = std::make_unique<serve::OpenAiApi>(std::move(api), tokenizer, chat_.get(), *metered_);
}

void Service::add_routes(const net::SamplerIdentity& identity) {
  const rollout::EngineFacts& facts = engine_->facts();
  const net::SamplerInfo info{.identity = identity,
                              .max_model_len = facts.max_model_len,
                              .max_num_seqs = facts.max_num_seqs};
  Json about = net::to_json(info);
  if (Json turns = agent::json_of(turns_); !turns.is_null()) about["turns"] = std::move(turns);
  control_ = std::make_unique<serve::ControlRoutes>(
      *metered_, metrics_,
      serve::ControlFacts{.version = LOCKSTEP_VERSION,
                          .model_name = names_of(options_)[0],
                          .model_path = options_.model,
                          .sampler_info = std::move(about),
                          .connections = [this] { return server_->connections(); }},
      serve::WeightLoader{
          .load = [this](const serve::OfferedWeights& offered) { return loader_->load(offered); },
          .release = [this] { loader_->release(); }},
      [this] { return train::tensor_checksums(loaded_.source->files()); });
  router_ = std::make_unique<serve::Router>(options_.api_key);
  control_->add_to(*router_);
  router_->set_fallback([this](serve::HttpRequest& request, const auto& responder) {
    return api_->handle(request, responder);
  });
}

void Service::wait_and_stop() {
  while (!interrupt_requested()) {
    if (!engine_->is_alive())
      fail<InternalError>("sampler-died", "rollout",
                          "expected the sampler to go on, got three failures in a row");
    std::this_thread::sleep_for(50ms);
  }
  const auto patience = milliseconds_of(options_.shutdown_timeout);
  const rollout::EngineStats stats = engine_->stats();
  log_info("rollout: {}: {} requests have {} s to finish", interrupt_name(),
           stats.running + stats.waiting, options_.shutdown_timeout);
  if (!server_->stop(Clock::now() + patience))
    log_warning("rollout: the time is over, and the requests that still ran were cut off");
}

void check_flags(const ServeOptions& options, const FlagSet& flags) {
  for (const std::string& name : options.served_model_name)
    if (name.empty())
      fail<ConfigError>("bad-flag", flags.where_of("served_model_name"),
                        "expected names with text, got an empty one");
  for (const char character : options.api_key)
    if (character <= 0x20 || character >= 0x7f)
      fail<ConfigError>("bad-api-key", flags.where_of("api_key"),
                        "expected visible ASCII characters, since the key stands in a header of "
                        "HTTP, got another one");
}

void warn_if_open(const ServeOptions& options) {
  if (is_loopback(options.host) || !options.api_key.empty()) return;
  log_warning("------------------------------------------------------------------------");
  log_warning("rollout: {} is reached from OTHER MACHINES, and there is NO KEY: whoever",
              options.host);
  log_warning("reaches the port can use the model, abort requests and load other weights.");
  log_warning("Set --api_key, or LOCKSTEP_API_KEY, or --host 127.0.0.1.");
  log_warning("------------------------------------------------------------------------");
}

}  // namespace

void run_rollout(CommandContext& context, std::span<const std::string> arguments) {
  ServeOptions options;
  rollout::EngineOptions engine;
  rollout::ServiceOptions service_options;
  agent::ServedTurns turns;
  FlagSet flags("rollout", "Serves a model over HTTP to OpenAI's clients and to trainers.");
  flags.add_group("server", options);
  flags.add_group("sampler", engine);
  flags.add_group("batches", service_options);
  flags.add_group("several turns", turns);
  flags.use_classes(rollout_flag_classes());
  flags.require("model");
  if (!begin_command(context, flags, arguments)) return;
  if (options.api_key.empty())
    if (const char* const key = std::getenv("LOCKSTEP_API_KEY")) options.api_key = key;
  check_flags(options, flags);
  context.reads("--model", options.model);
  auto adapters = named_adapters(options, flags.where_of("adapters"));
  for (const serve::ServedAdapter& one : adapters) context.reads("--adapters", one.path);
  for (const std::string& file : turns.external_plugins) context.reads("--external_plugins", file);
  Service service(options, turns, std::move(adapters));
  warn_if_open(options);
  // --model_type and the like may be given, but not contradict config.json.
  check_declared_family(context.accepted, enum_name(train::load_config(options.model).family));
  service.start(context, engine, service_options);
  context.phase.start();
  service.wait_and_stop();
  fail<InterruptedError>("interrupted", "rollout", "stopped by {}", interrupt_name());
}

}  // namespace lockstep::cli
