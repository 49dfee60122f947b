// SPDX-License-Identifier: Apache-2.0
#include "grpo/round_wire.h"

#include <concepts>
#include <cstring>
#include <map>
#include <optional>
#include <type_traits>
#include <utility>

#include "base/check.h"
#include "base/json.h"
#include "tensor/aten.h"

namespace lockstep::grpo {
namespace {

// The fields of what is sent, for both directions. Each list names all fields of its struct, so
// that one that is added does not compile until somebody has said here whether it is sent.

template <class T, class Struct>
concept Is = std::same_as<std::remove_const_t<T>, Struct>;

template <Is<model::ExpertChoices> T, class Pass>
void pass_fields(T& choices, const Pass& pass) {
  auto& [experts, weights] = choices;
  pass(experts, weights);
}

template <Is<train::Sample> T, class Pass>
void pass_fields(T& sample, const Pass& pass) {
  // What layers read, and its rows, stay on the rank that has sampled.
  auto& [ids, mask, adapter, kept, kept_rows, routed] = sample;
  pass(ids, mask, adapter, routed);
}

template <Is<Experience> T, class Pass>
void pass_fields(T& experience, const Pass& pass) {
  auto& [sample, sampler, old, ref, processed, learned, advantage, token_advantages, group, number,
         is_truncated, weight_version, is_rescored] = experience;
  pass(sample, sampler, old, ref, processed, learned, advantage, token_advantages, group, number,
       is_truncated, weight_version, is_rescored);
}

template <Is<TurnRecord> T, class Pass>
void pass_fields(T& record, const Pass& pass) {
  auto& [prompt_messages, prompt, messages, last_text, turn_ids, infos, reward, num_turns,
         num_tool_calls, num_tool_failures] = record;
  pass(prompt_messages, prompt, messages, last_text, turn_ids, infos, reward, num_turns,
       num_tool_calls, num_tool_failures);
}

template <Is<SampledGroups> T, class Pass>
void pass_fields(T& groups, const Pass& pass) {
  // Every rank has the prompts.
  auto& [prompts, group_size, experiences, texts, records] = groups;
  pass(group_size, experiences, texts, records);
}

template <Is<reward::PlacedNotes> T, class Pass>
void pass_fields(T& notes, const Pass& pass) {
  auto& [metrics, extra] = notes;
  pass(metrics, extra);
}

template <Is<RoundRewards::Judgement> T, class Pass>
void pass_fields(T& judgement, const Pass& pass) {
  auto& [values, notes, failures] = judgement;
  pass(values, notes, failures);
}

template <Is<JudgedGroups> T, class Pass>
void pass_fields(T& part, const Pass& pass) {
  auto& [groups, judgement] = part;
  pass(groups, judgement);
}

template <class T>
inline constexpr bool kIsList = false;
template <class T>
inline constexpr bool kIsList<std::vector<T>> = true;
template <>
inline constexpr bool kIsList<std::string> = true;
template <class T>
inline constexpr bool kIsOptional = false;
template <class T>
inline constexpr bool kIsOptional<std::optional<T>> = true;
template <class T>
inline constexpr bool kIsMap = false;
template <class K, class V>
inline constexpr bool kIsMap<std::map<K, V>> = true;
template <class K, class V>
inline constexpr bool kIsMap<std::multimap<K, V>> = true;

class Writer {
 public:
  std::string take() { return std::move(bytes_); }

  template <class T>
  void put(const T& value) {
    if constexpr (std::is_arithmetic_v<T>) {
      put_raw(&value, sizeof(T));
    } else if constexpr (kIsList<T>) {
      put(value.size());
      if constexpr (std::is_arithmetic_v<typename T::value_type>)
        put_raw(value.data(), value.size() * sizeof(typename T::value_type));
      else
        for (const auto& one : value) put(one);
    } else if constexpr (kIsOptional<T>) {
      put(value.has_value());
      if (value) put(*value);
    } else if constexpr (kIsMap<T>) {
      put(value.size());
      for (const auto& [key, mapped] : value) {
        put(key);
        put(mapped);
      }
    } else if constexpr (std::same_as<T, Json>) {
      put(Json::to_msgpack(value));
    } else if constexpr (std::same_as<T, at::Tensor>) {
      put_tensor(value);
    } else {
      pass_fields(value, [this](const auto&... fields) { (put(fields), ...); });
    }
  }

 private:
  void put_raw(const void* data, size_t bytes) {
    bytes_.append(static_cast<const char*>(data), bytes);
  }
  void put_tensor(const at::Tensor& tensor) {
    put(tensor.defined());
    if (!tensor.defined()) return;
    put(static_cast<int>(tensor.scalar_type()));
    put(tensor.sizes().vec());
    const at::Tensor whole = tensor.contiguous();
    put_raw(whole.const_data_ptr(), whole.nbytes());
  }

  std::string bytes_;
};

class Reader {
 public:
  explicit Reader(std::string_view bytes) : left_(bytes) {}

  bool is_at_end() const { return left_.empty(); }

  template <class T>
  void get(T& value) {
    if constexpr (std::is_arithmetic_v<T>) {
      get_raw(&value, sizeof(T));
    } else if constexpr (kIsList<T>) {
      get_list(value);
    } else if constexpr (kIsOptional<T>) {
      if (get<bool>()) get(value.emplace());
    } else if constexpr (kIsMap<T>) {
      for (size_t count = get<size_t>(); count > 0; --count) {
        auto key = get<typename T::key_type>();
        value.emplace_hint(value.end(), std::move(key), get<typename T::mapped_type>());
      }
    } else if constexpr (std::same_as<T, Json>) {
      value = Json::from_msgpack(get<std::vector<uint8_t>>());
    } else if constexpr (std::same_as<T, at::Tensor>) {
      get_tensor(value);
    } else {
      pass_fields(value, [this](auto&... fields) { (get(fields), ...); });
    }
  }

 private:
  template <class T>
  T get() {
    T value{};
    get(value);
    return value;
  }
  template <class List>
  void get_list(List& list) {
    using Element = typename List::value_type;
    const auto count = get<size_t>();
    if constexpr (std::is_arithmetic_v<Element>) {
      check(count <= left_.size() / sizeof(Element));
      list.resize(count);
      get_raw(list.data(), count * sizeof(Element));
    } else {
      for (size_t i = 0; i < count; ++i) get(list.emplace_back());
    }
  }
  void get_tensor(at::Tensor& tensor) {
    if (!get<bool>()) return;
    const auto dtype = static_cast<at::ScalarType>(get<int>());
    tensor = at::empty(get<std::vector<int64_t>>(), at::TensorOptions().dtype(dtype));
    get_raw(tensor.mutable_data_ptr(), tensor.nbytes());
  }
  void get_raw(void* data, size_t bytes) {
    check(bytes <= left_.size());
    if (bytes) std::memcpy(data, left_.data(), bytes);
    left_.remove_prefix(bytes);
  }
  void check(bool is_whole) const {
    if (!is_whole)
      fail<FormatError>("bad-part", "part of a round", "expected more bytes, got {}", left_.size());
  }

  std::string_view left_;
};

}  // namespace

std::string bytes_of_part(const JudgedGroups& part) {
  Writer writer;
  writer.put(part);
  return writer.take();
}

JudgedGroups read_part(std::string_view bytes, std::vector<const Prompt*> prompts) {
  JudgedGroups part;
  Reader reader(bytes);
  reader.get(part);
  SampledGroups& groups = part.groups;
  groups.prompts = std::move(prompts);
  const size_t expected = groups.prompts.size() * static_cast<size_t>(groups.group_size);
  if (!reader.is_at_end() || groups.experiences.size() != expected ||
      groups.texts.size() != expected || part.judgement.values.size() != expected)
    fail<FormatError>("bad-part", "part of a round", "expected {} completions, got {}", expected,
                      groups.experiences.size());
  return part;
}

}  // namespace lockstep::grpo
