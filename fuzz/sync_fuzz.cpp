// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <vector>

#include "base/check.h"
#include "fuzz/fuzz_targets.h"
#include "sync/tcp_wire.h"
#include "sync/weight_delta.h"
#include "sync/weight_image.h"
#include "tensor/aten.h"

namespace lockstep::fuzz {
namespace {

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// The weights of before and after a small step, and the delta between them.
struct Step {
  Step() {
    const std::vector<io::NamedTensor> tensors = {{"a", at::arange(600).to(at::kBFloat16)},
                                                  {"b", at::arange(5).to(at::kFloat)}};
    const sync::ImageWriter writer(tensors);
    std::vector<std::byte> block(writer.bytes());
    const std::string base = writer.write(block, 1).hex();
    before = block;
    tensors[0].tensor[300] += 1;
    tensors[1].tensor.add_(1);
    sync::DeltaWriter changes(size_t{1} << 20);
    digest = writer
                 .write(block, 1,
                        [&](size_t i, auto old_bytes, auto new_bytes) {
                          changes.add(i, old_bytes, new_bytes, writer.element_bytes(i));
                        })
                 .hex();
    after = block;
    delta =
        changes.finish(base, digest, block.size(), std::span(block).first(writer.header_bytes()));
  }
  std::vector<std::byte> before, after, delta;
  std::string digest;
};

const Step& step() {
  static const Step one;
  return one;
}

}  // namespace

int fuzz_weight_image(std::span<const uint8_t> bytes) {
  try {
    const sync::WeightImage image(nullptr, std::as_bytes(bytes), "fuzz");
    LOCKSTEP_CHECK(image.digests().size() == image.entries().size(), "tensors without a digest");
    image.digest();
    image.verify(1);
  } catch (const FormatError&) {
    return 0;
  }
  return 1;
}

std::string weight_image_seed() { return text_of(step().before); }

int fuzz_weight_delta(std::span<const uint8_t> bytes) {
  std::vector<std::byte> block = step().before;
  const sync::WeightImage base(nullptr, step().before, "fuzz");
  try {
    const std::string digest =
        sync::apply_delta(std::as_bytes(bytes), base, block, "fuzz", /*num_threads=*/1);
    const sync::WeightImage image(nullptr, block, "fuzz");
    LOCKSTEP_CHECK(image.digest().hex() == digest, "other weights than were named");
    image.verify(1);
  } catch (const FormatError&) {
    return 0;
  }
  return 1;
}

std::string weight_delta_seed() { return text_of(step().delta); }

int fuzz_range_request(std::span<const uint8_t> bytes) {
  const std::string line = text_of(std::as_bytes(bytes));
  try {
    const sync::RangeRequest request = sync::parse_request(line, "fuzz");
    const std::string again = sync::request_line(request);
    LOCKSTEP_CHECK(sync::request_line(sync::parse_request(again, "fuzz")) == again,
                   "a request that is read otherwise: {}", again);
  } catch (const FormatError&) {
    return 0;
  }
  return 1;
}

}  // namespace lockstep::fuzz
