// SPDX-License-Identifier: Apache-2.0
#include "serve/served_adapters.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "serve/request_fields.h"  // shown

namespace lockstep::serve {
namespace {

constexpr size_t kLongestName = 256;

/// The place of a name among adapters, or the end.
template <class Adapters>
auto place_of(Adapters& adapters, std::string_view name) {
  return std::find_if(adapters.begin(), adapters.end(),
                      [&](const ServedAdapter& one) { return one.name == name; });
}

}  // namespace

std::string adapter_name_problem(std::string_view name,
                                 const std::vector<std::string>& model_names) {
  if (name.empty()) return "expected a name, got an empty one";
  if (name.size() > kLongestName)
    return fmt::format("expected a name of at most {} bytes, got {}", kLongestName, name.size());
  if (std::any_of(name.begin(), name.end(), [](char c) {
        const auto byte = static_cast<unsigned char>(c);
        return byte < 0x20 || byte == 0x7f;
      }))
    return "expected a name without control characters, got " + shown(std::string(name));
  if (std::find(model_names.begin(), model_names.end(), name) != model_names.end())
    return fmt::format("expected another name than the model's, got {}", name);
  return "";
}

ServedAdapters::ServedAdapters(std::vector<std::string> model_names,
                               std::vector<ServedAdapter> adapters,
                               AdapterLoader loader)
    : model_names_(std::move(model_names)),
      loader_(std::move(loader)),
      adapters_(std::move(adapters)) {}

std::optional<ServedAdapter> ServedAdapters::find(std::string_view name) const {
  const std::lock_guard lock(mutex_);
  const auto found = place_of(adapters_, name);
  if (found == adapters_.end()) return std::nullopt;
  return *found;
}

std::vector<ServedAdapter> ServedAdapters::list() const {
  const std::lock_guard lock(mutex_);
  return adapters_;
}

void ServedAdapters::load(const std::string& name, const OfferedWeights& offered, bool in_place) {
  if (const std::string problem = adapter_name_problem(name, model_names_); !problem.empty())
    throw RequestError(400, "bad-request", "lora_name", problem);
  const std::string where = offered.where();
  if (where.empty())
    throw RequestError(400, "bad-request", "lora_path",
                       "expected the folder of an adapter, got none");
  if (!loader_)
    throw RequestError(400, "not-supported", "lora_path", "expected no adapter: none is loaded");
  const std::lock_guard one_at_a_time(loading_);
  if (!in_place && find(name))
    throw RequestError(400, "bad-request", "lora_name",
                       fmt::format("expected a name that no adapter has, got {} (load_inplace "
                                   "puts another one in its place)",
                                   name));
  ServedAdapter added{name, where, {}};
  try {
    added.loaded = loader_(offered);
  } catch (const RequestError&) {
    throw;
  } catch (const Error& error) {
    // Files that do not fit are the request's mistake, whichever of them shows it.
    throw RequestError(error.code() == "missing-adapter" ? 404 : 400, error.code(),
                       offered.is_folder() ? "lora_path" : offered.field(), error.what());
  }
  log_info("adapter {}: loaded from {}, {} pairs", name, where, added.loaded.num_pairs);
  const std::lock_guard lock(mutex_);
  if (const auto old = place_of(adapters_, name); old != adapters_.end())
    std::swap(*old, added);
  else
    adapters_.push_back(std::move(added));
}

void ServedAdapters::unload(const std::string& name) {
  if (name.empty())
    throw RequestError(400, "bad-request", "lora_name", "expected a name, got an empty one");
  const std::lock_guard one_at_a_time(loading_);
  ServedAdapter last;
  {
    const std::lock_guard lock(mutex_);
    const auto found = place_of(adapters_, name);
    if (found == adapters_.end())
      throw RequestError(404, "adapter-not-found", "lora_name",
                         fmt::format("expected the name of an adapter, got {}", shown(name)));
    last = std::move(*found);
    adapters_.erase(found);
  }
  log_info("adapter {}: unloaded", name);
}

}  // namespace lockstep::serve
