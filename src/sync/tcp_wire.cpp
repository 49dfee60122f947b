// SPDX-License-Identifier: Apache-2.0
#include "sync/tcp_wire.h"

#include "base/check.h"
#include "base/json.h"
#include "sync/secret.h"

namespace lockstep::sync {
namespace {

constexpr JsonLimits kLimits{.max_depth = 4, .max_bytes = kMostLineBytes};

}  // namespace

std::string request_line(const RangeRequest& request) {
  Json object{{"protocol", kTcpProtocol}, {"token", request.token}, {"weights", request.weights}};
  if (!request.base.empty()) object["base"] = request.base;
  object["begin"] = request.begin;
  object["end"] = request.end;
  return dump_json(object) + "\n";
}

RangeRequest parse_request(std::string_view line, std::string_view where) {
  constexpr const char* kCode = "bad-request";
  const Json object = parse_json(line, where, kCode, kLimits);
  const auto refuse = [&](const char* field, const char* expected) {
    const Json found = object.is_object() ? object.value(field, Json()) : Json();
    // Not what a token looks like.
    fail<FormatError>(kCode, where, "expected {} as {}, got {}", expected, field,
                      found.is_string() ? "another text" : dump_json(found).substr(0, 80));
  };
  if (!object.is_object()) refuse("request", "an object");
  if (const Json protocol = object.value("protocol", Json()); protocol != kTcpProtocol)
    fail<FormatError>("wrong-protocol", where, "expected protocol {}, got {}", kTcpProtocol,
                      dump_json(protocol).substr(0, 80));
  const auto text = [&](const char* field) {
    const Json value = object.value(field, Json());
    if (!value.is_string() || !is_hex_128(value.get_ref<const std::string&>()))
      refuse(field, "32 hexadecimal digits");
    return value.get<std::string>();
  };
  const auto count = [&](const char* field) {
    const Json value = object.value(field, Json());
    if (!value.is_number_unsigned()) refuse(field, "a number of bytes");
    return value.get<size_t>();
  };
  RangeRequest request{.token = text("token"),
                       .weights = text("weights"),
                       .base = object.contains("base") ? text("base") : "",
                       .begin = count("begin"),
                       .end = count("end")};
  if (object.size() != (request.base.empty() ? 5 : 6)) refuse("request", "no other fields");
  return request;
}

std::string answer_line(size_t bytes) { return dump_json({{"bytes", bytes}}) + "\n"; }

std::string refusal_line(std::string_view code, std::string_view message) {
  // Half of a line would be no line, and the cut may go through a character.
  constexpr size_t kMostMessage = 400;
  const Json object{{"error", {{"code", code}, {"message", message.substr(0, kMostMessage)}}}};
  return object.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace) + "\n";
}

void ask_for(Connection& connection, const RangeRequest& request) {
  connection.send(request_line(request));
  const std::string line = connection.receive_line(kMostLineBytes);
  const Json answer = parse_json(line, connection.peer(), "bad-answer", kLimits);
  const Json error = answer.is_object() ? answer.value("error", Json()) : Json();
  if (error.is_object() && error.value("code", Json()).is_string())
    throw PeerError(error["code"].get<std::string>(), connection.peer(),
                    fmt::format("expected bytes {} to {} of the weights, got: {}", request.begin,
                                request.end, dump_json(error.value("message", Json()))));
  const size_t expected = request.end - request.begin;
  if (!answer.is_object() || answer.value("bytes", Json()) != expected)
    fail<FormatError>("bad-answer", connection.peer(), "expected {} bytes, got {}", expected,
                      dump_json(answer).substr(0, 200));
}

}  // namespace lockstep::sync
