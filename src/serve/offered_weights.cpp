// SPDX-License-Identifier: Apache-2.0
#include "serve/offered_weights.h"

#include <algorithm>
#include <initializer_list>
#include <limits>

#include "base/check.h"
#include "base/json.h"
#include "serve/error_answer.h"
#include "serve/request_fields.h"

namespace lockstep::serve {
namespace {

void refuse_other_members(const Json& object,
                          std::string_view place,
                          std::initializer_list<std::string_view> known) {
  for (const auto& [name, value] : object.items()) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    throw RequestError(400, "bad-request", std::string(place),
                       fmt::format("expected only what the backend {} knows, got {}",
                                   kWeightBackend, name.substr(0, 80)));
  }
}

/// The fields of update_info, each of which must be there.
class UpdateInfo {
 public:
  explicit UpdateInfo(const Json& object) : fields_(object, "update_info") {}

  std::string text(const char* name, const char* expected) const {
    const auto value = fields_.text(name);
    if (!value || value->empty()) refuse_field(fields_.field(name), expected, Json());
    return *value;
  }
  size_t bytes(const char* name) const {
    const auto value = fields_.integer(name, 1);
    if (!value) refuse_field(fields_.field(name), "a number of bytes", Json());
    return static_cast<size_t>(*value);
  }
  const RequestFields& fields() const { return fields_; }

 private:
  RequestFields fields_;
};

WeightPeer read_peer(const UpdateInfo& info) {
  WeightPeer peer{.host = info.text("host", "the trainer's address"),
                  .port = 0,
                  .token = info.text("token", "the trainer's token"),
                  .base = "",
                  .delta_bytes = 0};
  const auto port = info.fields().integer("port", 1, std::numeric_limits<uint16_t>::max());
  if (!port) refuse_field("update_info.port", "the trainer's port", Json());
  peer.port = static_cast<uint16_t>(*port);
  const bool has_delta = info.fields().find("base") || info.fields().find("delta_bytes");
  if (!has_delta) return peer;
  peer.base = info.text("base", "the digest of the weights from which the delta leads");
  peer.delta_bytes = info.bytes("delta_bytes");
  return peer;
}

}  // namespace

std::string OfferedWeights::where() const {
  if (!peer.host.empty()) return fmt::format("{}:{}", peer.host, peer.port);
  return shared_memory.empty() ? folder.string() : shared_memory;
}

const char* OfferedWeights::field() const {
  if (!peer.host.empty()) return "update_info.host";
  return shared_memory.empty() ? "update_info.path" : "update_info.name";
}

std::string read_init_request(const Json& body) {
  const RequestFields fields(body);
  if (!fields.find("init_info")) refuse_field("init_info", "an object", Json());
  const RequestFields info(*fields.find("init_info"), "init_info");
  // The backend is said by name, or it is the only one there is.
  const std::string backend = info.text("backend").value_or(std::string(kWeightBackend));
  if (backend != kWeightBackend && backend != kFolderBackend)
    throw RequestError(400, "unknown-backend", "init_info.backend",
                       fmt::format("expected {}, or {} for folders alone, got {}", kWeightBackend,
                                   kFolderBackend, backend.substr(0, 80)));
  refuse_other_members(body["init_info"], "init_info", {"backend", "session"});
  return info.text("session").value_or("");
}

OfferedWeights read_update_info(const Json& body) {
  const RequestFields request(body);
  const Json* object = request.find("update_info");
  if (!object) refuse_field("update_info", "an object", Json());
  // One object for each rank; here there is one.
  if (object->is_array()) {
    if (object->size() != 1) refuse_field("update_info", "an object, or a list of one", *object);
    object = &(*object)[0];
  }
  const UpdateInfo info(*object);
  const std::string transport =
      info.fields().text("transport").value_or(std::string(kFolderBackend));
  OfferedWeights offered;
  offered.digest = info.fields().text("digest").value_or("");
  if (transport == kFolderBackend) {
    const auto path = info.fields().text("path");
    if (!path) refuse_field("update_info.path", "the path of a checkpoint's folder", Json());
    offered.folder = *path;
    refuse_other_members(*object, "update_info", {"transport", "path", "digest"});
  } else if (transport == "shm") {
    offered.shared_memory = info.text("name", "the name of a block of shared memory");
    offered.bytes = info.bytes("bytes");
    refuse_other_members(*object, "update_info", {"transport", "name", "bytes", "digest"});
  } else if (transport == "tcp") {
    offered.peer = read_peer(info);
    offered.bytes = info.bytes("bytes");
    offered.digest = info.text("digest", "the digest of the weights");
    refuse_other_members(
        *object, "update_info",
        {"transport", "host", "port", "token", "bytes", "digest", "base", "delta_bytes"});
  } else {
    refuse_field("update_info.transport", "directory, shm or tcp", Json(transport));
  }
  return offered;
}

}  // namespace lockstep::serve
