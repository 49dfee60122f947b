// SPDX-License-Identifier: Apache-2.0
#include "layout/halves.h"

#include <algorithm>
#include <tuple>

#include "base/check.h"
#include "layout/strided_copy.h"

namespace lockstep::layout {
namespace {

/// Calls visit(copy, bytes of its region in the target's type) for the copies of a message.
template <class Visit>
void for_each_copy(const Plan& plan, const Layout& to, const Message& message, const Visit& visit) {
  const Piece& piece = plan.pieces[message.piece];
  for (size_t c = piece.first_copy; c < piece.first_copy + piece.num_copies; ++c) {
    const Copy& copy = plan.copies[c];
    if (copy.from_rank == message.from_rank)
      visit(copy, copy.region.numel() * element_bytes(to.stored_type(copy.tensor)));
  }
}

/// The message's index in a list in the plan's order; the list's size if it is not there.
size_t find_message(const std::vector<Message>& messages, size_t piece, int32_t from_rank) {
  const auto key = [](const Message& m) { return std::tuple(m.piece, m.from_rank); };
  const auto found = std::partition_point(messages.begin(), messages.end(), [&](const Message& m) {
    return key(m) < std::tuple(piece, from_rank);
  });
  if (found == messages.end() || key(*found) != std::tuple(piece, from_rank))
    return messages.size();
  return static_cast<size_t>(found - messages.begin());
}

/// The plan's digest is the beginning of the chain, so that sides with different plans disagree.
Digest chained(const Digest& chain, const Digest& message) {
  const uint64_t words[] = {message.low, message.high};
  return digest_of(words, sizeof(words), chain);
}

}  // namespace

std::vector<Message> messages_of(const Plan& plan, const Layout& to) {
  std::vector<Message> messages;
  for (size_t p = 0; p < plan.pieces.size(); ++p) {
    const Piece& piece = plan.pieces[p];
    std::map<int32_t, int64_t> sizes;
    for (size_t c = piece.first_copy; c < piece.first_copy + piece.num_copies; ++c)
      sizes[plan.copies[c].from_rank] +=
          plan.copies[c].region.numel() * element_bytes(to.stored_type(plan.copies[c].tensor));
    for (const auto& [from_rank, size] : sizes)
      messages.push_back({from_rank, piece.rank, p, size});
  }
  return messages;
}

Sender::Sender(
    const Layout& from, const Layout& to, const Plan& plan, int32_t rank, ByteSource& source)
    : from_(from),
      to_(to),
      plan_(plan),
      rank_(rank),
      source_(source),
      messages_(messages_of(plan, to)) {
  check_type_changes(from, to, plan);
  std::erase_if(messages_, [&](const Message& m) { return m.from_rank != rank; });
  digests_.resize(messages_.size());
}

Digest Sender::fill(const Message& message, std::span<std::byte> bytes) {
  const size_t index = find_message(messages_, message.piece, message.from_rank);
  LOCKSTEP_CHECK(index < messages_.size() && messages_[index] == message,
                 "rank {} sends no such message of piece {}", rank_, message.piece);
  LOCKSTEP_CHECK(static_cast<int64_t>(bytes.size()) == message.size, "{} bytes for {}",
                 bytes.size(), message.size);
  std::byte* to = bytes.data();
  for_each_copy(plan_, to_, message, [&](const Copy& copy, int64_t size) {
    fill_copy(copy, to);
    to += size;
  });
  digests_[index] = digest_of(bytes.data(), bytes.size());
  return *digests_[index];
}

void Sender::fill_copy(const Copy& copy, std::byte* to) const {
  const LogicalTensor& logical = from_.logical()[copy.tensor];
  const PhysicalTensor& tensor = from_.rank(rank_)[static_cast<size_t>(copy.from_tensor)];
  const Strides strides =
      strides_between(logical, copy.region, &tensor.boxes[static_cast<size_t>(copy.from_box)],
                      &tensor, nullptr, nullptr);
  const ValueChange change{tensor.type, to_.stored_type(copy.tensor), copy.value_change};
  const std::byte* const bytes = source_.tensor(rank_, copy.from_tensor).data();
  if (change.is_none()) {
    // Its digest is taken next, so it stays in the cache.
    strided_copy(strides, element_bytes(change.from), bytes, to, Destination::kCache);
    return;
  }
  if (strided_copy_changed(strides, change, bytes, to)) return;
  const bool narrows = element_bytes(tensor.type) > element_bytes(logical.type);
  if (change.from == change.to || narrows)
    fail<FormatError>("layout-conflict", tensor.name,
                      "expected values of {} that come back from {} with the same bytes, got "
                      "others on rank {}",
                      logical.id, to_.name(), rank_);
}

Digest Sender::sent(int32_t to_rank) const {
  Digest digest = plan_.digest;
  for (size_t m = 0; m < messages_.size(); ++m) {
    if (messages_[m].to_rank != to_rank) continue;
    LOCKSTEP_CHECK(digests_[m], "rank {} has not filled its message of piece {}", rank_,
                   messages_[m].piece);
    digest = chained(digest, *digests_[m]);
  }
  return digest;
}

Receiver::Receiver(const Layout& to, const Plan& plan, int32_t rank, UpdateSink& sink)
    : to_(to), plan_(plan), rank_(rank), sink_(sink), messages_(messages_of(plan, to)) {
  std::erase_if(messages_, [&](const Message& m) { return m.to_rank != rank; });
}

template <class Act>
void Receiver::or_drop(const Act& act) {
  try {
    act();
  } catch (...) {
    drop();
    throw;
  }
}

void Receiver::begin() {
  drop();
  sink_.begin();
  state_ = State::kOpen;
  or_drop([&] {
    digests_.assign(messages_.size(), std::nullopt);
    for (const Message& message : messages_) ++open_[message.piece].num_missing;
    // Nobody sends a piece of padding alone.
    for (size_t p = 0; p < plan_.pieces.size(); ++p) {
      const Piece& piece = plan_.pieces[p];
      if (piece.rank != rank_ || piece.num_copies > 0) continue;
      if (!sink_.memory(rank_, piece.tensor).empty()) continue;
      const std::vector<std::byte> zeros(static_cast<size_t>(piece.size));
      sink_.write(rank_, piece.tensor, piece.begin, zeros);
    }
  });
}

void Receiver::take(const Message& message,
                    std::span<const std::byte> bytes,
                    const Digest& digest) {
  or_drop([&] { accept(message, bytes, digest); });
}

const std::string& Receiver::tensor_name(size_t piece) const {
  return to_.rank(rank_)[static_cast<size_t>(plan_.pieces[piece].tensor)].name;
}

size_t Receiver::index_of(const Message& message) const {
  if (state_ == State::kIdle)
    fail<FormatError>("bad-message", to_.name(),
                      "expected no message on rank {}, where no update is under way, got one of "
                      "piece {}",
                      rank_, message.piece);
  if (message.piece >= plan_.pieces.size())
    fail<FormatError>("bad-message", to_.name(), "expected one of {} pieces, got piece {}",
                      plan_.pieces.size(), message.piece);
  const int32_t to_rank = plan_.pieces[message.piece].rank;
  if (message.to_rank != rank_ || to_rank != rank_)
    fail<FormatError>("bad-message", to_.name(),
                      "expected a message for rank {}, got one for rank {} of piece {} of rank {}",
                      rank_, message.to_rank, message.piece, to_rank);
  const size_t index = find_message(messages_, message.piece, message.from_rank);
  if (index == messages_.size())
    fail<FormatError>("bad-message", tensor_name(message.piece),
                      "expected nothing of piece {} from rank {}, got a message", message.piece,
                      message.from_rank);
  return index;
}

void Receiver::accept(const Message& message,
                      std::span<const std::byte> bytes,
                      const Digest& digest) {
  const size_t index = index_of(message);
  const std::string& name = tensor_name(message.piece);
  const int64_t expected = messages_[index].size;
  if (digests_[index])
    fail<FormatError>("bad-message", name, "expected piece {} from rank {} once, got it twice",
                      message.piece, message.from_rank);
  if (message.size != expected || static_cast<int64_t>(bytes.size()) != expected)
    fail<FormatError>("bad-message", name,
                      "expected {} bytes of piece {} from rank {}, got {} in a message of {}",
                      expected, message.piece, message.from_rank, bytes.size(), message.size);
  const Digest found = digest_of(bytes.data(), bytes.size());
  if (found != digest)
    fail<FormatError>("digest-mismatch", name,
                      "expected bytes of digest {} in piece {} from rank {}, got {}", digest.hex(),
                      message.piece, message.from_rank, found.hex());
  const Piece& piece = plan_.pieces[message.piece];
  const std::span<std::byte> memory = sink_.memory(rank_, piece.tensor);
  OpenPiece& open = open_.at(message.piece);
  // The padding stays zero.
  if (memory.empty()) open.bytes.resize(static_cast<size_t>(piece.size));
  place(message, bytes, memory.empty() ? open.bytes.data() : memory.data() + piece.begin);
  digests_[index] = found;
  if (--open.num_missing > 0) return;
  if (memory.empty()) sink_.write(rank_, piece.tensor, piece.begin, open.bytes);
  open_.erase(message.piece);
}

void Receiver::place(const Message& message,
                     std::span<const std::byte> bytes,
                     std::byte* to) const {
  const std::byte* from = bytes.data();
  for_each_copy(plan_, to_, message, [&](const Copy& copy, int64_t size) {
    const PhysicalTensor& tensor = to_.rank(rank_)[static_cast<size_t>(copy.to_tensor)];
    strided_copy(strides_between(to_.logical()[copy.tensor], copy.region, nullptr, nullptr,
                                 &copy.to, &tensor),
                 element_bytes(tensor.type), from, to);
    from += size;
  });
}

void Receiver::check(const std::map<int32_t, Digest>& sent) {
  or_drop([&] {
    LOCKSTEP_CHECK(state_ != State::kIdle, "rank {} has no update to check", rank_);
    std::map<int32_t, Digest> received;
    for (size_t m = 0; m < messages_.size(); ++m) {
      const auto& [from_rank, to_rank, piece, size] = messages_[m];
      if (!digests_[m])
        fail<FormatError>("bad-message", tensor_name(piece),
                          "expected {} bytes of piece {} from rank {}, got nothing", size, piece,
                          from_rank);
      Digest& digest = received.emplace(from_rank, plan_.digest).first->second;
      digest = chained(digest, *digests_[m]);
    }
    for (const auto& [from_rank, digest] : received) {
      const auto found = sent.find(from_rank);
      if (found == sent.end() || found->second != digest)
        fail<FormatError>("digest-mismatch", to_.name(),
                          "expected rank {} to have sent rank {} what came, of digest {}, got {}",
                          from_rank, rank_, digest.hex(),
                          found == sent.end() ? "none" : found->second.hex());
    }
    state_ = State::kChecked;
  });
}

void Receiver::commit() {
  or_drop([&] {
    LOCKSTEP_CHECK(state_ == State::kChecked, "rank {} has no checked update", rank_);
    sink_.commit();
    state_ = State::kIdle;
  });
}

void Receiver::drop() noexcept {
  if (state_ != State::kIdle) sink_.drop();
  state_ = State::kIdle;
  open_.clear();
}

}  // namespace lockstep::layout
