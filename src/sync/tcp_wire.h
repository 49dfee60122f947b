// What a trainer and those who take weights from it over TCP say to each other: a line of JSON
// there, a line of JSON and bytes back, as often as wanted.
// SPDX-License-Identifier: Apache-2.0
//
//   {"protocol":1,"token":"…","weights":"…","begin":0,"end":8}              of a block
//   {"protocol":1,"token":"…","weights":"…","base":"…","begin":0,"end":8}   of a delta
//
//   {"bytes":8} and these bytes, or {"error":{"code":"…","message":"…"}} and the end
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "sync/connection.h"

namespace lockstep::sync {

/// Counts up when an older and a newer program would misunderstand each other.
inline constexpr int64_t kTcpProtocol = 1;
/// A line has at most so many bytes.
inline constexpr size_t kMostLineBytes = 1024;

/// What a receiver wants to have.
struct RangeRequest {
  /// The secret that the trainer has given it on another way.
  std::string token;
  /// The digest of the weights.
  std::string weights;
  /// Of which weights the delta is wanted; empty: the block is.
  std::string base;
  /// Bytes [begin, end) of it.
  size_t begin = 0, end = 0;
};

/// The line, with its end.
std::string request_line(const RangeRequest& request);
/// Throws FormatError "bad-request" or "wrong-protocol" at `where`.
RangeRequest parse_request(std::string_view line, std::string_view where);

std::string answer_line(size_t bytes);
std::string refusal_line(std::string_view code, std::string_view message);

/// Asks for a range; its bytes come next. Throws PeerError with the trainer's code if it refuses,
/// FormatError "bad-answer".
void ask_for(Connection& connection, const RangeRequest& request);

}  // namespace lockstep::sync
