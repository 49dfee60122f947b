// SPDX-License-Identifier: Apache-2.0
#include "grpo/experience.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "tensor/aten.h"

namespace lockstep::grpo {
namespace {

/// The lists of an experience, in the order of the columns of `lengths`.
enum Column : int64_t {
  kIds,
  kSampler,
  kOld,
  kRef,
  kProcessed,
  kLearned,
  kAdvantages,
  kNumColumns
};

template <class T>
at::Tensor list_tensor(const std::vector<T>& values, at::ScalarType dtype) {
  at::Tensor made = at::empty({std::ssize(values)}, at::TensorOptions().dtype(dtype));
  std::copy(values.begin(), values.end(), static_cast<T*>(made.mutable_data_ptr()));
  return made;
}

template <class T>
void append(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

/// A file of named lists; each is read from front to back.
class ListReader {
 public:
  ListReader(const std::filesystem::path& path, std::string prefix)
      : file_(path), prefix_(std::move(prefix)) {}

  bool has(const std::string& name) const {
    return std::any_of(file_.entries().begin(), file_.entries().end(),
                       [&](const auto& entry) { return entry.name == prefix_ + name; });
  }

  at::Tensor list(const std::string& name, at::ScalarType dtype) const {
    for (const auto& entry : file_.entries())
      if (entry.name == prefix_ + name && entry.dtype == dtype) return file_.tensor(entry);
    fail<FormatError>("bad-resume", file_.path().string(), "expected the {} list {}{}, got none",
                      at::toString(dtype), prefix_, name);
  }

  /// Elements [first, first + count) of a list.
  template <class T>
  std::vector<T> slice(const at::Tensor& list, int64_t first, int64_t count) const {
    if (count < 0 || first > list.numel() - count)
      fail<FormatError>("bad-resume", file_.path().string(),
                        "expected lists as long as their lengths say, got {} of {} elements",
                        first + count, list.numel());
    const T* from = static_cast<const T*>(list.const_data_ptr()) + first;
    return {from, from + count};
  }

  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> expected, Args&&... args) const {
    fail<FormatError>("bad-resume", file_.path().string(), "expected {}",
                      fmt::format(expected, std::forward<Args>(args)...));
  }

 private:
  io::SafetensorsFile file_;
  std::string prefix_;
};

/// The experts of all experiences, if any has some.
std::vector<io::NamedTensor> routed_tensors(const std::vector<Experience>& buffer,
                                            const std::string& prefix) {
  std::vector<std::pair<model::ExpertChoices, int64_t>> pieces;
  std::vector<int64_t> tokens;
  for (const Experience& e : buffer) {
    tokens.push_back(e.sample.routed.defined() ? e.sample.routed.experts.size(0) : 0);
    if (tokens.back()) pieces.emplace_back(e.sample.routed, tokens.back());
  }
  const model::ExpertChoices all = model::ExpertChoices::join(pieces);
  if (!all.defined()) return {};
  return {{prefix + "routed_tokens", list_tensor(tokens, at::kLong)},
          {prefix + "routed", all.experts},
          {prefix + "routed_weights",
           all.weights.defined() ? all.weights : list_tensor(std::vector<float>(), at::kFloat)}};
}

/// Gives experiences the experts that routed_tensors() wrote.
void read_routed(const ListReader& reader, std::vector<Experience>& buffer) {
  if (!reader.has("routed_tokens")) return;
  const auto tokens =
      reader.slice<int64_t>(reader.list("routed_tokens", at::kLong), 0, std::ssize(buffer));
  const model::ExpertChoices all{reader.list("routed", at::kInt),
                                 reader.list("routed_weights", at::kFloat)};
  const bool with_weights = all.weights.numel() > 0;
  const int64_t values = all.experts.dim() == 3 ? all.experts.size(1) * all.experts.size(2) : 0;
  int64_t next = 0;
  for (size_t i = 0; i < buffer.size(); ++i) {
    if (!tokens[i]) continue;
    const auto part = [&](const at::Tensor& from) {
      if (tokens[i] < buffer[i].sample.needed_tokens() || next > all.experts.size(0) - tokens[i] ||
          from.sizes() != all.experts.sizes() || !values)
        reader.refuse("the experts of all tokens of completion {}, got those of {} of {}", i,
                      tokens[i], buffer[i].sample.needed_tokens());
      return from.narrow(0, next, tokens[i]).clone();
    };
    buffer[i].sample.routed = {part(all.experts), with_weights ? part(all.weights) : at::Tensor()};
    next += tokens[i];
  }
}

}  // namespace

std::span<const float> old_policy(const Experience& experience) {
  const std::vector<float>& own = experience.sampler_logprobs;
  const std::vector<float>& old = experience.old_logprobs.empty() ? own : experience.old_logprobs;
  const auto tokens = std::count(experience.sample.mask.begin(), experience.sample.mask.end(), 1);
  if (std::ssize(old) != tokens)
    fail<InternalError>("no-old-logprobs", "completion",
                        "expected what the policy of step {} said about each of the {} sampled "
                        "tokens, got {} log-probabilities",
                        experience.weight_version, tokens, old.size());
  return old;
}

int64_t tokens_of(std::span<const Experience> experiences) {
  int64_t tokens = 0;
  for (const Experience& experience : experiences) tokens += std::ssize(experience.sample.ids);
  return tokens;
}

std::vector<io::NamedTensor> experience_tensors(const std::vector<Experience>& buffer,
                                                const std::string& prefix) {
  std::vector<int64_t> ids, lengths, versions, groups;
  std::vector<uint8_t> mask, truncated, learned, rescored;
  std::vector<float> sampler, old, ref, processed;
  std::vector<double> advantages, token_advantages;
  for (const Experience& e : buffer) {
    append(ids, e.sample.ids);
    append(mask, e.sample.mask);
    append(sampler, e.sampler_logprobs);
    append(old, e.old_logprobs);
    append(ref, e.ref_logprobs);
    append(processed, e.processed_logprobs);
    append(learned, e.learned);
    append(token_advantages, e.token_advantages);
    append(lengths,
           {std::ssize(e.sample.ids), std::ssize(e.sampler_logprobs), std::ssize(e.old_logprobs),
            std::ssize(e.ref_logprobs), std::ssize(e.processed_logprobs), std::ssize(e.learned),
            std::ssize(e.token_advantages)});
    groups.push_back(e.group);
    advantages.push_back(e.advantage);
    truncated.push_back(e.is_truncated);
    versions.push_back(e.weight_version);
    rescored.push_back(e.is_rescored);
  }
  std::vector<io::NamedTensor> tensors = routed_tensors(buffer, prefix);
  const std::vector<io::NamedTensor> lists{
      {prefix + "ids", list_tensor(ids, at::kLong)},
      {prefix + "lengths", list_tensor(lengths, at::kLong).view({-1, kNumColumns})},
      {prefix + "version", list_tensor(versions, at::kLong)},
      {prefix + "advantage", list_tensor(advantages, at::kDouble)},
      {prefix + "sampler", list_tensor(sampler, at::kFloat)},
      {prefix + "old", list_tensor(old, at::kFloat)},
      {prefix + "ref", list_tensor(ref, at::kFloat)},
      {prefix + "processed", list_tensor(processed, at::kFloat)},
      {prefix + "learned", list_tensor(learned, at::kByte)},
      {prefix + "token_advantage", list_tensor(token_advantages, at::kDouble)},
      {prefix + "group", list_tensor(groups, at::kLong)},
      {prefix + "mask", list_tensor(mask, at::kByte)},
      {prefix + "rescored", list_tensor(rescored, at::kByte)},
      {prefix + "truncated", list_tensor(truncated, at::kByte)}};
  tensors.insert(tensors.end(), lists.begin(), lists.end());
  return tensors;
}

std::vector<Experience> read_experiences(const std::filesystem::path& file,
                                         const std::string& prefix) {
  const ListReader reader(file, prefix);
  const at::Tensor lengths = reader.list("lengths", at::kLong);
  const int64_t count = lengths.numel() / kNumColumns;
  const auto all_lengths = reader.slice<int64_t>(lengths, 0, count * kNumColumns);
  const auto versions = reader.slice<int64_t>(reader.list("version", at::kLong), 0, count);
  const auto groups = reader.slice<int64_t>(reader.list("group", at::kLong), 0, count);
  const auto advantages = reader.slice<double>(reader.list("advantage", at::kDouble), 0, count);
  const auto rescored = reader.slice<uint8_t>(reader.list("rescored", at::kByte), 0, count);
  const auto truncated = reader.slice<uint8_t>(reader.list("truncated", at::kByte), 0, count);
  const at::Tensor ids = reader.list("ids", at::kLong), mask = reader.list("mask", at::kByte),
                   sampler = reader.list("sampler", at::kFloat),
                   old = reader.list("old", at::kFloat), ref = reader.list("ref", at::kFloat),
                   processed = reader.list("processed", at::kFloat),
                   learned = reader.list("learned", at::kByte),
                   of_tokens = reader.list("token_advantage", at::kDouble);
  std::vector<Experience> buffer;
  int64_t next[kNumColumns] = {};
  for (int64_t i = 0; i < count; ++i) {
    const int64_t* length = all_lengths.data() + i * kNumColumns;
    const auto row = static_cast<size_t>(i);
    // Field by field: GCC 12 destroys the first fields of a nested aggregate twice when a later one
    // throws.
    Experience& experience = buffer.emplace_back();
    experience.sample.ids = reader.slice<int64_t>(ids, next[kIds], length[kIds]);
    experience.sample.mask = reader.slice<uint8_t>(mask, next[kIds], length[kIds]);
    experience.sampler_logprobs = reader.slice<float>(sampler, next[kSampler], length[kSampler]);
    experience.old_logprobs = reader.slice<float>(old, next[kOld], length[kOld]);
    experience.ref_logprobs = reader.slice<float>(ref, next[kRef], length[kRef]);
    experience.processed_logprobs =
        reader.slice<float>(processed, next[kProcessed], length[kProcessed]);
    experience.learned = reader.slice<uint8_t>(learned, next[kLearned], length[kLearned]);
    experience.token_advantages =
        reader.slice<double>(of_tokens, next[kAdvantages], length[kAdvantages]);
    experience.group = groups[row];
    experience.advantage = advantages[row];
    experience.is_truncated = truncated[row] != 0;
    experience.weight_version = versions[row];
    experience.is_rescored = rescored[row] != 0;
    for (int64_t column = 0; column < kNumColumns; ++column) next[column] += length[column];
  }
  read_routed(reader, buffer);
  return buffer;
}

}  // namespace lockstep::grpo
