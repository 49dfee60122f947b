// panel_product: each output is one chain of fused multiply-adds, and nothing else shows in its
// bits.
// SPDX-License-Identifier: Apache-2.0
#include "ops/panel_product.h"

#include <cmath>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string_view>
#include <utility>

#include <gtest/gtest.h>

#include <ATen/core/IListRef.h>  // the list of at::cat
#include <ATen/record_function.h>

#include "base/check.h"
#include "ops/cpu/panel_product.h"
#include "ops/kernel_data.h"
#include "ops/library_product.h"
#include "tensor/aten.h"
#include "tests/ops/targets.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"

namespace lockstep::ops {
namespace {

using testing::same_bits;
using testing::some_of;

at::Tensor uniform(at::IntArrayRef shape, at::ScalarType dtype) {
  return at::empty(shape, at::kFloat).uniform_(-1, 1).to(dtype);
}

/// The definition, one element at a time; in plain C++ each step rounds the product and the sum. By
/// pairs the odd input comes first.
/// Shapes: x [T, I]; w [O, I] -> [T, O] float32.
at::Tensor float_chain(const at::Tensor& x, const at::Tensor& w) {
  const at::Tensor a = x.to(at::kFloat).contiguous(), b = w.to(at::kFloat).contiguous();
  const int64_t rows = a.size(0), inputs = a.size(1), outputs = b.size(0);
  at::Tensor y = at::empty({rows, outputs}, at::kFloat);
  const bool by_pairs = x.scalar_type() == at::kBFloat16 && cpu::has_pair_products();
  for (int64_t t = 0; t < rows; ++t)
    for (int64_t o = 0; o < outputs; ++o) {
      float sum = 0;
      for (int64_t step = 0; step < inputs; ++step) {
        const int64_t i = by_pairs && (step ^ 1) < inputs ? step ^ 1 : step;
        const float value = a.const_data_ptr<float>()[t * inputs + i],
                    weight = b.const_data_ptr<float>()[o * inputs + i];
        sum = testing::is_scalar_target() ? sum + value * weight : std::fma(value, weight, sum);
      }
      y.mutable_data_ptr<float>()[t * outputs + o] = sum;
    }
  return y;
}
at::Tensor chain(const at::Tensor& x, const at::Tensor& w) {
  return float_chain(x, w).to(w.scalar_type());
}

TEST(PanelProduct, IsOneChainOfFusedMultiplyAdds) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const int64_t inputs : some_of<int64_t>({257, 1, 2, 63, 519, 255, 256}))
      for (const int64_t outputs : some_of<int64_t>({33, 1, 130, 15, 17, 16}))
        for (const int64_t rows : {1, 2, 3, 4, 7, 13, 97}) {
          const auto x = uniform({rows, inputs}, dtype), w = uniform({outputs, inputs}, dtype);
          ASSERT_TRUE(same_bits(panel_product(x, pack_panels(w), outputs), chain(x, w)))
              << at::toString(dtype) << " [" << rows << ", " << inputs << "] -> " << outputs;
        }
}

/// What a processor without products of pairs runs, on this one as well: bfloat16 panels, x
/// widened.
TEST(PanelProduct, IsOneChainForAWidenedX) {
  for (const int64_t inputs : some_of<int64_t>({257, 1, 63, 519, 256}))
    for (const int64_t outputs : some_of<int64_t>({33, 130, 1, 97}))
      for (const int64_t rows : {1, 2, 3, 4, 7, 13, 96})
        for (const bool is_transposed : {false, true}) {
          const auto x = uniform({rows, inputs}, at::kBFloat16).to(at::kFloat);
          const auto w = uniform({outputs, inputs}, at::kBFloat16);
          const auto given = is_transposed ? x.t().contiguous() : x, panels = pack_panels(w);
          const auto wide = at::empty({rows, outputs}, at::kFloat),
                     narrow = wide.to(w.scalar_type());
          const auto multiply = [&](auto* y) {
            using Y = std::remove_pointer_t<decltype(y)>;
            cpu::panel_product(
                cpu::PanelProduct<uint16_t, Y>{.x = const_elements<float>(given),
                                               .x_stride = given.size(1),
                                               .is_transposed = is_transposed,
                                               .rows = rows,
                                               .inputs = inputs,
                                               .outputs = outputs,
                                               .panels = const_elements<uint16_t>(panels),
                                               .y = y,
                                               .y_stride = outputs},
                0, cpu::num_panels(outputs));
          };
          multiply(elements<float>(wide));
          multiply(elements<uint16_t>(narrow));
          // Of float32 rows: one input after another, whatever the processor does with pairs.
          const auto expected = float_chain(x, w);
          ASSERT_TRUE(same_bits(wide, expected))
              << rows << " x " << inputs << " x " << outputs << " " << is_transposed;
          ASSERT_TRUE(same_bits(narrow, expected.to(at::kBFloat16)))
              << rows << " x " << inputs << " x " << outputs << " " << is_transposed;
        }
}

TEST(PanelProduct, NoRowsGiveNoRows) {
  const auto w = uniform({5, 3}, at::kFloat);
  EXPECT_EQ(panel_product(at::empty({0, 3}), pack_panels(w), 5).sizes(), at::IntArrayRef({0, 5}));
}

TEST(PanelProduct, PacksAnyStrides) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const auto w = uniform({20, 35}, dtype);
    EXPECT_TRUE(same_bits(pack_panels(w), pack_panels(w.t().contiguous().t())));
  }
}

TEST(PanelProduct, PanelsAreTransposedAndReadBack) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const int64_t outputs : {1, 2, 15, 16, 17, 33, 64})
      for (const int64_t inputs : {1, 2, 15, 16, 17, 48, 129}) {
        SCOPED_TRACE(::testing::Message()
                     << at::toString(dtype) << " " << outputs << ", " << inputs);
        const auto w = uniform({outputs, inputs}, dtype), panels = pack_panels(w);
        EXPECT_TRUE(same_bits(unpack_panels(panels, outputs, inputs), w));
        EXPECT_TRUE(same_bits(transpose_panels(panels, outputs, inputs), pack_panels(w.t())));
      }
}

/// Left sides come transposed in a backward pass, and results that are added up stay float32.
TEST(PanelProduct, TakesAnyStridesAndGoesOnFromWhatIsThere) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const int64_t inputs : {1, 5, 16, 300})
      for (const int64_t rows : {1, 15, 33, 130}) {
        const auto x = uniform({rows, inputs}, dtype), w = uniform({21, inputs}, dtype);
        const auto y = panel_product(x, pack_panels(w), 21);
        EXPECT_TRUE(same_bits(panel_product(x.t().contiguous().t(), pack_panels(w), 21), y));
        // The chain over both halves of the inputs is the chain over all.
        const int64_t half = inputs / 2;
        const at::Tensor sum = at::full({rows, 21}, 7.0F);
        const auto part = [&](int64_t first, int64_t count, bool adds) {
          return PanelOperands{x.narrow(1, first, count), pack_panels(w.narrow(1, first, count)),
                               sum, adds};
        };
        panel_products({part(0, half, false)});
        panel_products({part(half, inputs - half, true)});
        EXPECT_TRUE(same_bits(sum.to(dtype), y)) << at::toString(dtype) << ", " << inputs;
      }
}

/// What lies beside the inputs in memory, NaN here, is not read even to be multiplied by zero, and
/// what lies beside the results is not written.
TEST(PanelProduct, StaysInsideItsRowsAndColumns) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const int64_t inputs : {1, 5, 64, 257})
      for (const int64_t rows : {1, 2, 3, 7, 97}) {
        const auto x = uniform({rows, inputs}, dtype), w = uniform({37, inputs}, dtype);
        const auto inside = [&](const at::Tensor& from, const at::Tensor& all) {
          const auto part = all.narrow(0, 1, from.size(0)).narrow(1, 1, from.size(1));
          return part.copy_(from);
        };
        const auto nan = [&](int64_t height, int64_t width, at::ScalarType of) {
          return at::full({height + 2, width + 2}, NAN, of);
        };
        const auto expected = panel_product(x, pack_panels(w), 37);
        const auto panels = pack_panels(inside(w, nan(37, inputs, dtype)));
        const auto wide = nan(rows, 37, dtype), y = wide.narrow(0, 1, rows).narrow(1, 1, 37);
        panel_products({{inside(x, nan(rows, inputs, dtype)), panels, y}});
        EXPECT_TRUE(same_bits(y.contiguous(), expected))
            << at::toString(dtype) << " [" << rows << ", " << inputs << "]";
        EXPECT_EQ(wide.isnan().sum().item<int64_t>(), (rows + 2) * 39 - rows * 37);
        // Columns that lie side by side, as those of a transposed left side do.
        panel_products({{inside(x.t(), nan(inputs, rows, dtype)).t(), panels, y}});
        EXPECT_TRUE(same_bits(y.contiguous(), expected));
      }
}

TEST(PanelProduct, AddsChainsOfInputs) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const int64_t rows : {1, 5, 20}) {
      const auto x = uniform({rows, 700}, dtype), w = uniform({37, 700}, dtype);
      const at::Tensor start = uniform({rows, 37}, at::kFloat);
      at::Tensor expected = start.clone();
      for (const auto& [first, count] : {std::pair{0, 256}, {256, 256}, {512, 188}})
        expected.add_(float_chain(x.narrow(1, first, count), w.narrow(1, first, count)));
      panel_products({{x, pack_panels(w), start, true, true}});
      EXPECT_TRUE(same_bits(start, expected)) << at::toString(dtype) << ", " << rows << " rows";
    }
}

TEST(PanelProduct, PackedAgainKeepsItsAddress) {
  const auto panels = pack_panels(uniform({20, 35}, at::kFloat));
  const auto changed = uniform({20, 35}, at::kFloat);
  const auto again = pack_panels(changed, panels);
  EXPECT_EQ(again.const_data_ptr(), panels.const_data_ptr());
  EXPECT_TRUE(same_bits(again, pack_panels(changed)));
}

TEST(PanelProduct, ManyProductsAtOnceEqualEachAlone) {
  const auto x = uniform({300, 70}, at::kFloat);
  std::vector<PanelOperands> products;
  std::vector<at::Tensor> alone;
  const at::Tensor table = at::empty({300, 45}, at::kFloat);
  for (const int64_t first : {0, 1, 120}) {
    const int64_t rows = first == 0 ? 1 : first == 1 ? 119 : 180;
    const auto panels = pack_panels(uniform({45, 70}, at::kFloat));
    products.push_back({x.narrow(0, first, rows), panels, table.narrow(0, first, rows)});
    alone.push_back(panel_product(x.narrow(0, first, rows), panels, 45));
  }
  panel_products(products);
  EXPECT_TRUE(same_bits(table, at::cat(alone)));
}

TEST(PanelProduct, ThreadCountDoesNotMatter) {
  const auto x = uniform({200, 300}, at::kBFloat16);
  const auto panels = pack_panels(uniform({500, 300}, at::kBFloat16));
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = panel_product(x, panels, 500);
  at::set_num_threads(3);
  const auto three = panel_product(x, panels, 500);
  at::set_num_threads(threads);
  EXPECT_TRUE(same_bits(one, three));
}

TEST(PanelProduct, RefusesOtherDtypes) {
  EXPECT_ERROR(pack_panels(at::zeros({2, 2}, at::kDouble)), ShapeError, "bad-dtype", "Double");
}

TEST(LibraryProduct, FewRowsAreThoseOfMany) {
  if (!cpu::has_pair_products()) GTEST_SKIP() << "a processor without bfloat16 products";
  const auto x = uniform({40, 96}, at::kBFloat16), w = uniform({64, 96}, at::kBFloat16);
  ASSERT_TRUE(library_rows_are_independent(96, 64));
  const auto packed = pack_for_library(w);
  const auto all = library_product(x, packed, 64);
  for (const int64_t rows : {0, 1, 2, 3, 5, 9, 16, 17})
    EXPECT_TRUE(
        same_bits(library_product(x.narrow(0, 0, rows), packed, 64), all.narrow(0, 0, rows)))
        << rows;
}

/// The products that oneDNN gets while `run` runs: their rows, and whether they were called inside
/// a parallel region.
std::set<std::pair<int64_t, bool>> products_of(const std::function<void()>& run) {
  static std::mutex mutex;
  static std::set<std::pair<int64_t, bool>> seen;
  seen.clear();
  const auto handle = at::addGlobalCallback(
      at::RecordFunctionCallback([](const at::RecordFunction& op)
                                     -> std::unique_ptr<at::ObserverContext> {
        if (std::string_view(op.name()) != "mkldnn::_linear_pointwise") return nullptr;
        const std::lock_guard lock(mutex);
        seen.emplace(op.inputs()[0].toTensor().size(0), at::in_parallel_region());
        return nullptr;
      }).needsInputs(true));
  run();
  at::removeCallback(handle);
  return seen;
}

/// No product has more rows than the probe has compared, by all threads and by one.
TEST(LibraryProduct, TheProbeCoversAsManyRowsAsThereEverAre) {
  if (!cpu::has_pair_products()) GTEST_SKIP() << "a processor without bfloat16 products";
  // A shape that nothing has probed yet, on another target either.
  static int64_t inputs = 16;
  inputs += 8;
  const auto probed = products_of([] { EXPECT_TRUE(library_rows_are_independent(inputs, 16)); });
  EXPECT_EQ(probed.count({kLibraryRows, false}), 1u);
  if (at::get_num_threads() > 1) {
    EXPECT_EQ(probed.count({kLibraryRows, true}), 1u);
  }
  const int64_t rows = 2 * kLibraryRows + 77;
  const auto x = uniform({rows, inputs}, at::kBFloat16);
  const auto packed = pack_for_library(uniform({16, inputs}, at::kBFloat16));
  at::Tensor all;
  for (const auto& [most, is_in_region] :
       products_of([&] { all = library_product(x, packed, 16); }))
    EXPECT_LE(most, kLibraryRows);
  for (int64_t first = 0; first < rows; first += kLibraryRows) {
    const int64_t count = std::min(kLibraryRows, rows - first);
    EXPECT_TRUE(same_bits(library_product(x.narrow(0, first, count), packed, 16),
                          all.narrow(0, first, count)));
  }
}

}  // namespace
}  // namespace lockstep::ops
