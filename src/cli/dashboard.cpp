// SPDX-License-Identifier: Apache-2.0
#include "cli/dashboard.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include <fmt/format.h>

#include "base/check.h"
#include "base/json.h"
#include "cli/blocked_signals.h"
#include "report/report.h"
#include "serve/http_server.h"

namespace lockstep::cli {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

/// A page that has asked within this time is looked at.
constexpr auto kWatched = 6s;
/// How often completions are read anew at most: they are a megabyte.
constexpr auto kCompletionsEvery = 5s;

/// The page is what its server sends, and asks nobody else for anything.
constexpr const char* kPolicy =
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'";

std::string error_text(int status, std::string_view message) {
  return dump_json(Json{{"error", {{"status", status}, {"message", std::string(message)}}}});
}

/// A header Host without its port.
std::string host_of(const std::string& header) {
  if (header.starts_with("[")) return header.substr(0, header.find(']') + 1);
  return header.substr(0, header.find(':'));
}

/// Whether a browser that asks for this host asks for us. A page of somebody else's whose name
/// suddenly means this machine (DNS rebinding) gives its own name.
bool is_own_host(const std::string& header, const std::string& listened) {
  const std::string host = host_of(header);
  const bool is_number =
      host.starts_with("[") ||
      (!host.empty() && host.find_first_not_of("0123456789.") == std::string::npos);
  return is_number || host == "localhost" || host == listened;
}

/// What a page has of a run.
struct Known {
  int64_t generation = -1, rows = 0, completions = -1;
};

/// "3.120.7,…": generation, rows and version of the completions of each run. What is malformed is
/// not known.
std::vector<Known> known_of(const std::string& text, size_t runs) {
  std::vector<Known> known(runs);
  const char* at = text.c_str();
  for (Known& one : known) {
    int64_t* const fields[] = {&one.generation, &one.rows, &one.completions};
    Known read;
    int64_t* const into[] = {&read.generation, &read.rows, &read.completions};
    for (int i = 0; i < 3; ++i) {
      char* end = nullptr;
      *into[i] = std::strtoll(at, &end, 10);
      if (end == at) return known;
      at = end;
      if (*at == '.' || *at == ',') ++at;
    }
    for (int i = 0; i < 3; ++i) *fields[i] = *into[i];
  }
  return known;
}

struct Run {
  explicit Run(const fs::path& directory) : reader(report::RunReader::growing(directory)) {}
  report::RunReader reader;
  /// What completions_json() said when it had that version.
  std::string completions;
  int64_t version = -1;
  Clock::time_point made{};
};

}  // namespace

struct Dashboard::Impl {
  Impl(const std::string& listened, const std::vector<fs::path>& directories) : host(listened) {
    for (const fs::path& directory : directories) runs.emplace_back(directory);
    names = report::run_names(directories);
  }

  void answer(const serve::HttpRequest& request, serve::HttpResponder& responder);
  std::string changes(const std::string& known);
  std::string data();
  const std::string& completions_of(Run& run);

  std::string host;
  std::vector<std::string> names;
  /// Guards all below it.
  std::mutex mutex;
  std::condition_variable asked;
  std::vector<Run> runs;
  Clock::time_point last_asked{};
  bool is_over = false, has_seen_end = false;
  std::unique_ptr<serve::HttpServer> server;
};

const std::string& Dashboard::Impl::completions_of(Run& run) {
  const auto now = Clock::now();
  if (run.version != run.reader.completions_version() && now - run.made >= kCompletionsEvery) {
    run.version = run.reader.completions_version();
    run.completions = run.reader.completions_json();
    run.made = now;
  }
  return run.completions;
}

std::string Dashboard::Impl::changes(const std::string& text) {
  const auto known = known_of(text, runs.size());
  std::string out = "{\"runs\":[";
  for (size_t i = 0; i < runs.size(); ++i) {
    Run& run = runs[i];
    run.reader.read();
    out += i ? ",{" : "{";
    out += run.reader.changes_json(known[i].generation, known[i].rows);
    // A page that was opened before the run began has no settings yet.
    if (known[i].rows == 0) out += ",\"settings\":" + run.reader.settings_json();
    const std::string& completions = completions_of(run);
    if (run.version >= 0 && run.version != known[i].completions)
      out += fmt::format(",\"shown_version\":{},", run.version) + completions;
    out += "}";
  }
  return out + "]}";
}

std::string Dashboard::Impl::data() {
  std::string out = "{\"version\":1,\"runs\":[";
  for (size_t i = 0; i < runs.size(); ++i) {
    runs[i].reader.read();
    out += (i ? "," : "") + runs[i].reader.json(names[i]);
  }
  return out + "]}";
}

void Dashboard::Impl::answer(const serve::HttpRequest& request, serve::HttpResponder& responder) {
  const auto refuse = [&](int status, std::string_view message) {
    responder.respond({.status = status, .body = error_text(status, message)});
  };
  if (request.method != "GET" && request.method != "HEAD") return refuse(405, "expected GET");
  const auto host_header = request.headers.find("host");
  if (host_header != request.headers.end() && !is_own_host(host_header->second, host))
    return refuse(403, "expected this server's own name or a number as its host");
  serve::HttpResponse response{.headers = {{"Cache-Control", "no-store"},
                                           {"X-Content-Type-Options", "nosniff"},
                                           {"Content-Security-Policy", kPolicy}}};
  if (request.path == "/") {
    response.content_type = "text/html; charset=utf-8";
    response.body = report::page("{\"live\":true}");
    return responder.respond(std::move(response));
  }
  const bool is_data = request.path == "/data.json", is_changes = request.path == "/changes.json";
  if (!is_data && !is_changes) return refuse(404, "expected /, /data.json or /changes.json");
  const std::lock_guard lock(mutex);
  const auto known = request.query.find("known");
  response.body = is_data ? data() : changes(known == request.query.end() ? "" : known->second);
  responder.respond(std::move(response));
  last_asked = Clock::now();
  has_seen_end |= is_over;
  asked.notify_all();
}

Dashboard::Dashboard(const std::string& host,
                     uint16_t port,
                     const std::vector<fs::path>& directories)
    : impl_(std::make_unique<Impl>(host, directories)) {
  const BlockedSignals blocked;
  serve::HttpLimits limits;
  limits.max_body_bytes = 1 << 16;
  limits.max_connections = 64;
  impl_->server = std::make_unique<serve::HttpServer>(
      host, port, limits,
      [impl = impl_.get()](serve::HttpRequest&& request,
                           std::shared_ptr<serve::HttpResponder> responder) {
        try {
          impl->answer(request, *responder);
        } catch (const std::exception& error) {
          // A log that cannot be read at the moment: the page asks again.
          responder->respond({.status = 503, .body = error_text(503, error.what())});
        }
      },
      error_text);
}

Dashboard::~Dashboard() = default;

uint16_t Dashboard::port() const { return impl_->server->port(); }

std::string Dashboard::address() const {
  const bool is_version6 = impl_->host.find(':') != std::string::npos;
  return fmt::format("http://{}:{}", is_version6 ? "[" + impl_->host + "]" : impl_->host, port());
}

void Dashboard::let_watchers_see_the_end(std::chrono::milliseconds most) {
  std::unique_lock lock(impl_->mutex);
  impl_->is_over = true;
  if (Clock::now() - impl_->last_asked > kWatched) return;
  impl_->asked.wait_for(lock, most, [&] { return impl_->has_seen_end; });
  lock.unlock();
  // The answer that says so is on its way.
  impl_->server->stop(Clock::now() + 1s);
}

}  // namespace lockstep::cli
