// The adapters that requests may name instead of the model: they come and go while requests run.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "serve/offered_weights.h"

namespace lockstep::model {
class Adapter;
}

namespace lockstep::serve {

/// An adapter that was read and fits the model.
struct LoadedAdapter {
  /// Of what it adds to the model (model::adapter_digest), in hexadecimal digits.
  std::string digest;
  /// How many layers, and parameters of experts, it stands beside.
  int64_t num_pairs = 0;
  std::shared_ptr<const model::Adapter> adapter;
};

/// Reads an adapter, from a folder or a block, for the model that is served. Throws an Error of the
/// project for one that does not fit. It takes its time, and may be called by any thread.
using AdapterLoader = std::function<LoadedAdapter(const OfferedWeights& offered)>;

struct ServedAdapter {
  std::string name;
  /// Where it was read from, as it was given.
  std::string path;
  LoadedAdapter loaded;
};

/// What is wrong with calling an adapter so beside a model of these names; empty: nothing.
std::string adapter_name_problem(std::string_view name,
                                 const std::vector<std::string>& model_names);

/// Adapters by name. A request keeps the one that it has found, whatever becomes of the name.
/// Threads: any may call anything; while one loads an adapter, others find and list.
class ServedAdapters {
 public:
  /// With adapters that have been loaded, under different names that adapter_name_problem() lets
  /// pass. Without a loader no others come.
  ServedAdapters(std::vector<std::string> model_names,
                 std::vector<ServedAdapter> adapters,
                 AdapterLoader loader);

  /// Unset if none has this name.
  std::optional<ServedAdapter> find(std::string_view name) const;
  /// In the order in which their names were first loaded.
  std::vector<ServedAdapter> list() const;

  /// Reads an adapter and gives it a name, which another one may only have `in_place`: new requests
  /// get the new one then. Throws RequestError: 400 "bad-request" for a name or path that is none,
  /// and for a name that is taken; 404 "missing-adapter"; 400 with the loader's code for what does
  /// not fit. What had the name keeps it then.
  void load(const std::string& name, const OfferedWeights& offered, bool in_place);
  /// Takes a name away. Throws RequestError 400 for an empty one, 404 "adapter-not-found".
  void unload(const std::string& name);

 private:
  std::vector<std::string> model_names_;
  AdapterLoader loader_;
  /// Held while an adapter is read: one after another.
  std::mutex loading_;
  mutable std::mutex mutex_;
  std::vector<ServedAdapter> adapters_;
};

}  // namespace lockstep::serve
