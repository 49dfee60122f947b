// SPDX-License-Identifier: Apache-2.0
#include "ops/adamw.h"

#include <cmath>
#include <vector>

#include "base/check.h"
#include "ops/cpu/adamw.h"
#include "ops/kernel_data.h"
#include "tensor/aten.h"
#include "tensor/parallel.h"

namespace lockstep::ops {
namespace {

constexpr int64_t kBlock = kSquaresBlock;
/// Blocks that a thread takes at once: 2 MB of state, so that a region is worth its start.
constexpr int64_t kBlockGrain = 8;

/// Calls visit(block index, first element, number of elements), in parallel.
template <class Visit>
void for_each_block(int64_t count, Visit&& visit) {
  const int64_t blocks = (count + kBlock - 1) / kBlock;
  parallel_for(0, blocks, kBlockGrain, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block)
      visit(block, block * kBlock, std::min(kBlock, count - block * kBlock));
  });
}

void check_like_master(const at::Tensor& tensor, const at::Tensor& master, const char* name) {
  if (tensor.sizes() != master.sizes() || !tensor.is_contiguous())
    fail<ShapeError>("bad-shape", "adamw_step", "expected a contiguous {} {}, got {}{}", name,
                     shape_text(master), shape_text(tensor),
                     tensor.is_contiguous() ? "" : ", not contiguous");
}

void check_float(const at::Tensor& tensor, const char* name) {
  if (tensor.scalar_type() != at::kFloat)
    fail<ShapeError>("bad-dtype", "adamw_step", "expected {} in float32, got {}", name,
                     at::toString(tensor.scalar_type()));
}

cpu::AdamWConstants constants_of(const AdamWSettings& s) {
  const auto step = static_cast<double>(s.step);
  const double correction1 = 1 - std::pow(s.beta1, step);
  const double correction2 = 1 - std::pow(s.beta2, step);
  return {.decay = static_cast<float>(1 - s.learning_rate * s.weight_decay),
          .step_size = static_cast<float>(s.learning_rate / correction1),
          .one_minus_beta1 = static_cast<float>(1 - s.beta1),
          .beta2 = static_cast<float>(s.beta2),
          .one_minus_beta2 = static_cast<float>(1 - s.beta2),
          .inverse_root_correction2 = static_cast<float>(1 / std::sqrt(correction2)),
          .eps = static_cast<float>(s.eps),
          .gradient_scale = static_cast<float>(s.gradient_scale)};
}

}  // namespace

void adamw_step(const at::Tensor& weight,
                const at::Tensor& master,
                const at::Tensor& exp_avg,
                const at::Tensor& exp_avg_sq,
                const at::Tensor& gradient,
                const AdamWSettings& settings) {
  check_like_master(master, master, "master");
  check_like_master(weight, master, "weight");
  check_like_master(exp_avg, master, "exp_avg");
  check_like_master(exp_avg_sq, master, "exp_avg_sq");
  check_like_master(gradient, master, "gradient");
  check_float(master, "master");
  check_float(exp_avg, "exp_avg");
  check_float(exp_avg_sq, "exp_avg_sq");
  if (master.numel() == 0) return;
  LOCKSTEP_CHECK(settings.step >= 1, "step is {}", settings.step);
  const bool in_place = weight.const_data_ptr() == master.const_data_ptr();
  if (in_place) check_float(weight, "a weight that is its own master");
  const cpu::AdamWConstants constants = constants_of(settings);
  for_dtype(weight.scalar_type(), "adamw_step", [&](auto weight_tag) {
    for_dtype(gradient.scalar_type(), "adamw_step", [&](auto gradient_tag) {
      using W = decltype(weight_tag);
      using G = decltype(gradient_tag);
      const cpu::AdamWRun<W, G> all{.master = elements<float>(master),
                                    .exp_avg = elements<float>(exp_avg),
                                    .exp_avg_sq = elements<float>(exp_avg_sq),
                                    .weight = in_place ? nullptr : elements<W>(weight),
                                    .gradient = const_elements<G>(gradient)};
      for_each_block(master.numel(), [&](int64_t, int64_t first, int64_t count) {
        cpu::adamw_step(all.from(first), count, constants);
      });
    });
  });
}

std::vector<double> block_sums_of_squares(const at::Tensor& values, int64_t first) {
  const at::Tensor dense = values.contiguous();
  const int64_t last = first + dense.numel(), first_block = first / kBlock;
  if (first == last) return {};
  std::vector<double> sums(static_cast<size_t>((last + kBlock - 1) / kBlock - first_block));
  for_dtype(dense.scalar_type(), "block_sums_of_squares", [&](auto tag) {
    using T = decltype(tag);
    const T* const data = const_elements<T>(dense);
    parallel_for(0, std::ssize(sums), kBlockGrain, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        const int64_t from = std::max(first, (first_block + block) * kBlock),
                      to = std::min(last, (first_block + block + 1) * kBlock);
        sums[static_cast<size_t>(block)] = cpu::sum_of_squares(data + (from - first), to - from);
      }
    });
  });
  return sums;
}

double sum_of_squares(const at::Tensor& gradient) {
  double sum = 0;
  for (const double block : block_sums_of_squares(gradient, 0)) sum += block;
  return sum;
}

}  // namespace lockstep::ops
