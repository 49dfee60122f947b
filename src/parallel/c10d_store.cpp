// SPDX-License-Identifier: Apache-2.0
#undef TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "parallel/c10d_store.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>
#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "base/check.h"
#include "base/interrupt.h"
#include "parallel/host_address.h"

namespace lockstep::parallel {
namespace {

using Milliseconds = std::chrono::milliseconds;

/// The first line of an error's text: behind it come c10d's stacks.
std::string first_line(std::string_view text) {
  return std::string(text.substr(0, text.find('\n')));
}

/// How long a process that looks for the store does not hear a signal: at first, and at most. A
/// store that many ask at once takes its time to answer.
constexpr Milliseconds kHeardWithin{1000}, kLongestAttempt{4000};

class C10dStore : public Store {
 public:
  C10dStore(c10::intrusive_ptr<c10d::Store> store, std::string name)
      : store_(std::move(store)), name_(std::move(name)) {}

  void set(const std::string& key, const std::string& value) override {
    ask([&] { store_->set(key, std::vector<uint8_t>(value.begin(), value.end())); });
  }
  std::string get(const std::string& key, Milliseconds deadline) override {
    if (!wait({&key, 1}, deadline))
      fail<PeerError>("store-late", name_, "expected a value of {} within {} ms, got none", key,
                      deadline.count());
    return ask([&] {
      const std::vector<uint8_t> value = store_->get(key);
      return std::string(value.begin(), value.end());
    });
  }
  bool has(const std::string& key) override {
    return ask([&] { return store_->check({key}); });
  }
  bool wait(std::span<const std::string> keys, Milliseconds deadline) override {
    return ask([&] {
      try {
        store_->wait({keys.begin(), keys.end()}, deadline);
        return true;
      } catch (const c10::DistStoreError&) {
        return false;
      }
    });
  }
  int64_t add(const std::string& key, int64_t number) override {
    return ask([&] { return store_->add(key, number); });
  }
  std::unique_ptr<Store> another() override {
    return ask([&] { return std::make_unique<C10dStore>(store_->clone(), name_); });
  }

 private:
  template <class Action>
  auto ask(Action&& action) -> decltype(action()) {
    try {
      return action();
    } catch (const c10::Error& error) {
      fail<PeerError>("store-lost", name_, "expected an answer of the store, got: {}",
                      first_line(error.what_without_backtrace()));
    }
  }

  c10::intrusive_ptr<c10d::Store> store_;
  std::string name_;
};

/// Where a server listens; "": everywhere.
std::string listening_address(const StoreAddress& address) {
  const std::string numeric = resolve_host(address.host);
  // The host's own name is often loopback's on that host alone.
  return is_loopback(numeric) && !address.is_one_host ? "" : numeric;
}

int listen_for(const StoreAddress& address) {
  const std::string where = listening_address(address);
  try {
    return listen_at(where, address.port);
  } catch (const IoError&) {
    // The ranks may know this host by an address that is translated on the way.
    if (where.empty() || is_loopback(where)) throw;
    return listen_at("", address.port);
  }
}

/// c10d writes lines and stacks to stderr of what it throws as well. Whoever has asked libtorch for
/// other lines than its warnings keeps them.
void quiet_c10d() {
  constexpr int kWarnings = 1, kNothing = 3;
  if (FLAGS_caffe2_log_level == kWarnings) FLAGS_caffe2_log_level = kNothing;
}

}  // namespace

std::unique_ptr<Store> make_c10d_store(const StoreAddress& address, Milliseconds deadline) {
  quiet_c10d();
  c10d::TCPStoreOptions options;
  options.port = address.port;
  options.isServer = address.is_server;
  options.waitWorkers = false;
  if (address.is_server) options.masterListenFd = listen_for(address);
  const std::string name = fmt::format("{}:{}", address.host, address.port);
  const auto end = std::chrono::steady_clock::now() + deadline;
  for (Milliseconds attempt = kHeardWithin;; attempt = std::min(2 * attempt, kLongestAttempt)) {
    const auto left = std::chrono::ceil<Milliseconds>(end - std::chrono::steady_clock::now());
    // The store may not listen yet. A signal that comes meanwhile is heard between two attempts.
    options.timeout = std::clamp(left, Milliseconds(1), attempt);
    try {
      auto store = c10::make_intrusive<c10d::TCPStore>(address.host, options);
      store->setTimeout(deadline);
      return std::make_unique<C10dStore>(std::move(store), name);
    } catch (const c10::Error& error) {
      throw_if_interrupted();
      if (std::chrono::steady_clock::now() >= end || address.is_server)
        fail<PeerError>("store-late", name, "expected the store there within {} ms, got: {}",
                        deadline.count(), first_line(error.what_without_backtrace()));
    }
  }
}

}  // namespace lockstep::parallel
