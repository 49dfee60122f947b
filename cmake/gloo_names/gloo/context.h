// SPDX-License-Identifier: Apache-2.0
#pragma once
namespace gloo {
class Context {
 public:
  void setTimeout(std::chrono::milliseconds);
};
namespace transport {
class UnboundBuffer;
}  // namespace transport
}  // namespace gloo
