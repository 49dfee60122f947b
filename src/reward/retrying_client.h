// A server of rewards that may be too busy or away for a while.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/json.h"
#include "net/http_client.h"
#include "reward/external_options.h"

namespace lockstep::reward {

/// Posts to one URL as long as --reward_retries and --reward_timeout allow. Threads: safe.
class RetryingClient {
 public:
  /// Throws ConfigError "bad-url", "bad-api-key".
  RetryingClient(const std::string& url, const ExternalOptions& options);

  /// The URL of `path` below the client's own.
  std::string url(std::string_view path = "") const;
  /// The JSON of an answer with status 200; one of 429 or 5xx, or none at all, is asked for again.
  /// Throws PeerError naming the URL, what was expected and what was found; InterruptedError.
  Json post(std::string_view path, const std::string& body, const JsonLimits& limits = {}) const;
  Json get(std::string_view path) const;

 private:
  template <class Call>
  Json ask(std::string_view path, const JsonLimits& limits, const Call& call) const;

  ExternalOptions options_;
  std::string path_;
  std::unique_ptr<net::HttpClient> client_;
};

}  // namespace lockstep::reward
