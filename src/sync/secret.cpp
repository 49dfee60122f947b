// SPDX-License-Identifier: Apache-2.0
#include "sync/secret.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <sys/random.h>

#include "base/check.h"

namespace lockstep::sync {
namespace {

constexpr size_t kBytes = 16;

}  // namespace

std::string random_secret() {
  std::array<unsigned char, kBytes> bytes;
  size_t filled = 0;
  while (filled < bytes.size()) {
    const ssize_t got = ::getrandom(bytes.data() + filled, bytes.size() - filled, 0);
    if (got < 0 && errno != EINTR)
      fail<IoError>("no-random-bytes", "getrandom", "expected {} random bytes, got: {}", kBytes,
                    std::strerror(errno));
    if (got > 0) filled += static_cast<size_t>(got);
  }
  std::string text;
  for (const unsigned char byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}

bool is_hex_128(std::string_view text) {
  return text.size() == 2 * kBytes &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

bool equal_secrets(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned char differences = 0;
  for (size_t i = 0; i < a.size(); ++i)
    differences |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]);
  return differences == 0;
}

}  // namespace lockstep::sync
