// SPDX-License-Identifier: Apache-2.0
#include "serve/control_routes.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "serve/error_answer.h"
#include "serve/offered_weights.h"
#include "serve/request_fields.h"

namespace lockstep::serve {
namespace {

/// vLLM's ranks of data, pipeline, context and tensor parallelism: here all the first.
constexpr std::string_view kRankPrefix = "dp0:pp0:pcp0:tp0:";
/// A request of several prompts is one for each to the sampler, with "-0", "-1", … behind its id.
constexpr int kMostPrompts = 1024;

using Responder = std::shared_ptr<HttpResponder>;

/// The body as an object; a route whose fields may all be left out takes none, too.
Json optional_body(const HttpRequest& request) {
  return request.body.empty() ? Json::object() : parse_body(request.body);
}

std::string query_of(const HttpRequest& request, const char* name, const char* fallback) {
  const auto found = request.query.find(name);
  return found == request.query.end() ? fallback : found->second;
}

bool boolean_query(const HttpRequest& request, const char* name, bool fallback) {
  const std::string value = query_of(request, name, fallback ? "true" : "false");
  // FastAPI, in front of vLLM's routes, reads these words.
  for (const char* yes : {"true", "True", "1", "yes", "on"})
    if (value == yes) return true;
  for (const char* no : {"false", "False", "0", "no", "off"})
    if (value == no) return false;
  throw RequestError(400, "bad-request", name,
                     fmt::format("expected true or false, got \"{}\"", value.substr(0, 40)));
}

rollout::PauseMode pause_mode(const HttpRequest& request) {
  const std::string mode = query_of(request, "mode", "abort");
  if (mode == "abort") return rollout::PauseMode::kAbort;
  if (mode == "wait") return rollout::PauseMode::kWait;
  if (mode == "keep") return rollout::PauseMode::kKeep;
  throw RequestError(400, "bad-request", "mode",
                     fmt::format("expected abort, wait or keep, got \"{}\"", mode.substr(0, 40)));
}

/// The name that a trainer gave itself when it came.
std::string trainer_of(const Json& body) {
  return RequestFields(body).text("session").value_or("");
}

std::string message_json(std::string_view message) { return dump_json({{"message", message}}); }

}  // namespace

struct ControlRoutes::Impl {
  Impl(rollout::EngineService& given_engine,
       ServerMetrics& given_metrics,
       ControlFacts given_facts,
       WeightLoader loader,
       std::function<std::map<std::string, std::string>()> checksums,
       const WeightSessionLimits& limits)
      : engine(given_engine),
        metrics(given_metrics),
        facts(std::move(given_facts)),
        session(engine, std::move(loader), std::move(checksums), limits),
        worker([this] { work(); }) {}
  ~Impl() {
    {
      const std::lock_guard lock(mutex);
      is_stopping = true;
      has_tasks.notify_all();
    }
    worker.join();
  }

  /// A step of an update; what it returns is the answer.
  using Step = std::function<std::string(WeightSession& session, const HttpRequest& request)>;

  void work();
  void later(std::function<void()> task);
  HttpHandler weight_step(const char* operation, Step step);
  std::string finish(const HttpRequest& request);
  std::string check_weights(const HttpRequest& request);
  std::string server_info(const HttpRequest& request) const;
  void pause(const HttpRequest& request, const Responder& responder);
  std::string abort_requests(const HttpRequest& request);
  void add_state_routes(Router& router);
  void add_engine_routes(Router& router);
  void add_weight_routes(Router& router);
  void add_swift_routes(Router& router);

  rollout::EngineService& engine;
  ServerMetrics& metrics;
  ControlFacts facts;
  /// Used by the worker alone.
  WeightSession session;

  std::mutex mutex;
  std::condition_variable has_tasks;
  std::deque<std::function<void()>> tasks;
  bool is_stopping = false;
  // Last: it works on all that stands above.
  std::thread worker;
};

void ControlRoutes::Impl::work() {
  while (true) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex);
      has_tasks.wait(lock, [this] { return is_stopping || !tasks.empty(); });
      if (is_stopping) return;
      task = std::move(tasks.front());
      tasks.pop_front();
    }
    task();
  }
}

void ControlRoutes::Impl::later(std::function<void()> task) {
  const std::lock_guard lock(mutex);
  tasks.push_back(std::move(task));
  has_tasks.notify_all();
}

/// A handler whose work is done by the worker, in the order of the requests.
HttpHandler ControlRoutes::Impl::weight_step(const char* operation, Step step) {
  return
      [this, operation, step = std::move(step)](HttpRequest&& request, const Responder& responder) {
        later([this, operation, step, request = std::move(request), responder] {
          const auto start = std::chrono::steady_clock::now();
          try {
            respond_json(*responder, step(session, request));
          } catch (const std::exception& error) {
            const auto* const known = dynamic_cast<const RequestError*>(&error);
            if (known) log_warning("weights: {}: {}", operation, error.what());
            respond_error(*responder, error);
          }
          const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
          metrics.observe_weight_operation(operation, seconds.count());
        });
      };
}

std::string ControlRoutes::Impl::finish(const HttpRequest& request) {
  const Json body = optional_body(request);
  session.expect_trainer(trainer_of(body));
  const std::string version = RequestFields(body).text("weight_version").value_or("");
  const auto start = std::chrono::steady_clock::now();
  const std::string label = session.finish(version);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  log_info("weights: version {} is served (the swap took {:.3f} s)", label, seconds.count());
  return dump_json({{"message", "the update is finished"}, {"weight_version", label}});
}

std::string ControlRoutes::Impl::check_weights(const HttpRequest& request) {
  const Json body = parse_body(request.body);
  const RequestFields fields(body);
  const std::string action = fields.text("action").value_or("");
  if (action == "reset")
    throw RequestError(400, "not-supported", "action",
                       "expected checksum or compare: this server does not overwrite its weights "
                       "with zeros (load another folder with /update_weights)");
  Json now = Json::object();
  if (action == "checksum" || action == "compare")
    for (const auto& [name, digest] : session.checksums())
      now[std::string(kRankPrefix) + name] = digest;
  if (action == "checksum") return dump_json({{"checksums", now}});
  if (action != "compare")
    refuse_field("action", "checksum or compare",
                 fields.find("action") ? *fields.find("action") : Json());
  const Json* const baseline = fields.find("baseline");
  if (!baseline || !baseline->is_object())
    refuse_field("baseline", "the checksums of an earlier answer", baseline ? *baseline : Json());
  Json mismatches = Json::array();
  for (const auto& [name, digest] : now.items())
    if (!baseline->contains(name) || (*baseline)[name] != digest) mismatches.push_back(name);
  for (const auto& [name, digest] : baseline->items())
    if (!now.contains(name)) mismatches.push_back(name);
  return dump_json({{"match", mismatches.empty()}, {"mismatches", mismatches}});
}

std::string ControlRoutes::Impl::server_info(const HttpRequest& request) const {
  const std::string format = query_of(request, "config_format", "text");
  if (format != "text" && format != "json")
    throw RequestError(400, "bad-request", "config_format",
                       fmt::format("expected text or json, got \"{}\"", format.substr(0, 40)));
  const rollout::EngineFacts& engine_facts = engine.facts();
  const rollout::EngineStats stats = engine.stats();
  const Json config{
      {"model_config",
       {{"model", facts.model_path},
        {"served_model_name", facts.model_name},
        {"dtype", engine_facts.dtype},
        {"max_model_len", engine_facts.max_model_len}}},
      {"parallel_config",
       {{"tensor_parallel_size", 1}, {"pipeline_parallel_size", 1}, {"data_parallel_size", 1}}},
      {"scheduler_config", {{"max_num_seqs", engine_facts.max_num_seqs}}},
      {"cache_config", {{"num_gpu_blocks", stats.pages}}},
      {"weight_transfer_config", {{"backend", kWeightBackend}}}};
  Json answer{{"vllm_config", format == "json" ? config : Json(dump_json(config))},
              {"vllm_env", Json::object()},
              {"system_env", {{"lockstep_version", facts.version}}}};
  answer["lockstep"] = facts.sampler_info;
  return dump_json(answer);
}

void ControlRoutes::Impl::pause(const HttpRequest& request, const Responder& responder) {
  const auto mode = pause_mode(request);
  engine.pause(mode, boolean_query(request, "clear_cache", true),
               [responder] { respond_json(*responder, R"({"status":"paused"})"); });
}

std::string ControlRoutes::Impl::abort_requests(const HttpRequest& request) {
  const Json body = parse_body(request.body);
  const Json* const ids = RequestFields(body).find("request_ids");
  int64_t count = 0;
  if (!ids) {
    count = engine.abort_all();
  } else if (!ids->is_array()) {
    refuse_field("request_ids", "a list of request ids", *ids);
  } else {
    for (const Json& id : *ids)
      if (!id.is_string()) refuse_field("request_ids", "a list of texts", id);
    for (const Json& id : *ids) {
      const auto& name = id.get_ref<const std::string&>();
      bool is_known = engine.abort_request(name);
      for (int prompt = 0; !is_known && prompt < kMostPrompts; ++prompt)
        is_known |= engine.abort_request(fmt::format("{}-{}", name, prompt));
      count += is_known ? 1 : 0;
    }
  }
  return dump_json({{"status", "aborted"}, {"aborted", count}});
}

/// What a server is asked about itself.
void ControlRoutes::Impl::add_state_routes(Router& router) {
  const HttpHandler health = [this](HttpRequest&&, const Responder& responder) {
    if (!engine.is_alive())
      throw RequestError(503, "engine-dead", "", "the sampler cannot sample any more");
    if (!engine.has_weights())
      throw RequestError(503, "poisoned", "",
                         "an update broke off when the old weights were gone: send others");
    respond_json(*responder, R"({"status":"ok"})");
  };
  router.add("GET", "/health", health);
  router.add("GET", "/ping", health);
  router.add("POST", "/ping", health);
  router.add("GET", "/version", [this](HttpRequest&&, const Responder& responder) {
    respond_json(*responder, dump_json({{"version", facts.version}}));
  });
  router.add("GET", "/metrics", [this](HttpRequest&&, const Responder& responder) {
    const ServerMetrics::Moment moment{.engine = engine.stats(),
                                       .weight_version = engine.weight_version(),
                                       .is_paused = engine.is_paused(),
                                       .connections = facts.connections()};
    responder->respond({.status = 200,
                        .body = metrics.text(facts.model_name, moment),
                        .content_type = "text/plain; version=0.0.4; charset=utf-8"});
  });
  router.add("GET", "/server_info", [this](HttpRequest&& request, const Responder& responder) {
    respond_json(*responder, server_info(request));
  });
  router.add("GET", "/get_world_size", [](HttpRequest&&, const Responder& responder) {
    respond_json(*responder, R"({"world_size":1})");
  });
  router.add("GET", "/is_sleeping", [](HttpRequest&&, const Responder& responder) {
    respond_json(*responder, R"({"is_sleeping":false})");
  });
}

void ControlRoutes::Impl::add_engine_routes(Router& router) {
  router.add("POST", "/pause", [this](HttpRequest&& request, const Responder& responder) {
    pause(request, responder);
  });
  router.add("POST", "/resume", [this](HttpRequest&&, const Responder& responder) {
    engine.resume();
    respond_json(*responder, R"({"status":"resumed"})");
  });
  router.add("GET", "/is_paused", [this](HttpRequest&&, const Responder& responder) {
    respond_json(*responder, dump_json({{"is_paused", engine.is_paused()}}));
  });
  router.add("POST", "/abort_requests", [this](HttpRequest&& request, const Responder& responder) {
    respond_json(*responder, abort_requests(request));
  });
  router.add("POST", "/reset_prefix_cache", [this](HttpRequest&&, const Responder& responder) {
    engine.reset_prefix_cache();
    respond_json(*responder, R"({"success":true})");
  });
}

void ControlRoutes::Impl::add_weight_routes(Router& router) {
  const auto add = [&](const char* path, const char* operation, Step step) {
    router.add("POST", path, weight_step(operation, std::move(step)));
  };
  add("/init_weight_transfer_engine", "init", [](WeightSession& weights, const auto& request) {
    weights.init(read_init_request(parse_body(request.body)));
    return message_json(
        "weights come from checkpoint folders, blocks of shared memory, or over TCP");
  });
  add("/start_weight_update", "start", [](WeightSession& weights, const auto& request) {
    weights.expect_trainer(trainer_of(optional_body(request)));
    weights.start();
    return message_json("an update is open");
  });
  add("/update_weights", "update", [](WeightSession& weights, const auto& request) {
    OfferedWeights offered;
    std::string trainer;
    try {
      const Json body = parse_body(request.body);
      trainer = trainer_of(body);
      offered = read_update_info(body);
    } catch (const RequestError&) {
      // As for weights that do not fit.
      weights.drop();
      throw;
    }
    weights.expect_trainer(trainer);
    weights.update(offered);
    return message_json("the weights are loaded and fit; /finish_weight_update makes them current");
  });
  add("/finish_weight_update", "finish",
      [this](WeightSession&, const auto& request) { return finish(request); });
  add("/shutdown_weight_transfer_engine", "shutdown",
      [](WeightSession& weights, const auto& request) {
        weights.expect_trainer(trainer_of(optional_body(request)));
        weights.shutdown();
        return message_json("no update is open");
      });
  add("/weight_checker", "check",
      [this](WeightSession&, const auto& request) { return check_weights(request); });
  router.add("POST", "/update_weight_version",
             [this](HttpRequest&& request, const Responder& responder) {
               const Json body = parse_body(request.body);
               const auto version = RequestFields(body).text("new_version");
               if (!version) refuse_field("new_version", "a text", Json());
               engine.set_weight_version(*version);
               respond_json(*responder, dump_json({{"success", true}, {"new_version", *version}}));
             });
  router.add("GET", "/weight_info", [this](HttpRequest&&, const Responder& responder) {
    respond_json(*responder, dump_json({{"weight_version", engine.weight_version()}}));
  });
}

/// What ms-swift's client asks besides: it closes a communicator before it opens one, and clears
/// caches that are not there.
void ControlRoutes::Impl::add_swift_routes(Router& router) {
  router.add("POST", "/get_engine_type", [](HttpRequest&&, const Responder& responder) {
    respond_json(*responder, R"({"engine_type":"AsyncLLMEngine","enable_multi_turn":false,)"
                             R"("use_gym_env":false,"enable_lora":false})");
  });
  const std::pair<const char*, const char*> nothings[] = {
      {"/close_communicator", "no communicator is open"},
      {"/reset_mm_cache", "there is no cache of images"},
      {"/reset_encoder_cache", "there is no cache of an encoder"}};
  for (const auto& [path, message] : nothings)
    router.add("POST", path,
               [text = message_json(message)](HttpRequest&&, const Responder& responder) {
                 respond_json(*responder, text);
               });
}

ControlRoutes::ControlRoutes(rollout::EngineService& engine,
                             ServerMetrics& metrics,
                             ControlFacts facts,
                             WeightLoader loader,
                             std::function<std::map<std::string, std::string>()> initial_checksums,
                             const WeightSessionLimits& limits)
    : impl_(std::make_unique<Impl>(engine,
                                   metrics,
                                   std::move(facts),
                                   std::move(loader),
                                   std::move(initial_checksums),
                                   limits)) {}

ControlRoutes::~ControlRoutes() = default;

void ControlRoutes::add_to(Router& router) {
  impl_->add_state_routes(router);
  impl_->add_engine_routes(router);
  impl_->add_weight_routes(router);
  impl_->add_swift_routes(router);
}

}  // namespace lockstep::serve
