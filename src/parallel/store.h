// Where ranks meet: keys and values that all of them see.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace lockstep::parallel {

/// Keys and values that every rank sees. For what is small and rare: addresses, signs of life.
///
/// Every call throws PeerError "store-lost" where the store is gone. Threads: one at a time; give
/// each thread its own way to the store by another().
class Store {
 public:
  virtual ~Store() = default;
  virtual void set(const std::string& key, const std::string& value) = 0;
  /// The value of `key`, as soon as there is one. Throws PeerError "store-late" when there is none
  /// within `deadline`.
  virtual std::string get(const std::string& key, std::chrono::milliseconds deadline) = 0;
  virtual bool has(const std::string& key) = 0;
  /// Returns when all of `keys` have values; false when they have not within `deadline`.
  virtual bool wait(std::span<const std::string> keys, std::chrono::milliseconds deadline) = 0;
  /// Adds to a counter, which begins at 0, and returns what it is then. Its key is no other
  /// value's.
  virtual int64_t add(const std::string& key, int64_t number) = 0;
  /// Another way to the same keys, for another thread.
  virtual std::unique_ptr<Store> another() = 0;
};

/// A store in this process, with a way to it. It ends with the last of its ways.
std::unique_ptr<Store> make_memory_store();

/// The keys of `store` that begin with `prefix`, without it.
std::unique_ptr<Store> make_prefix_store(std::unique_ptr<Store> store, std::string prefix);

}  // namespace lockstep::parallel
