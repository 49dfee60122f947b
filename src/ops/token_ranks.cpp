// SPDX-License-Identifier: Apache-2.0
#include "ops/token_ranks.h"

#include <numeric>

#include "base/check.h"
#include "ops/kernel_data.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"

namespace lockstep::ops {
namespace {

using Counts = std::vector<int64_t>;

int64_t sum(const Counts& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

void exchange(const at::Tensor& send,
              const Counts& sent_rows,
              const at::Tensor& receive,
              const Counts& received_rows,
              const TokenShare& share,
              const char* what) {
  const int64_t width = send.size(-1) * static_cast<int64_t>(send.element_size());
  Counts sent, received;
  for (const int64_t rows : sent_rows) sent.push_back(rows * width);
  for (const int64_t rows : received_rows) received.push_back(rows * width);
  share.ranks->exchange({static_cast<const std::byte*>(send.const_data_ptr()), send.nbytes()}, sent,
                        {static_cast<std::byte*>(receive.mutable_data_ptr()), receive.nbytes()},
                        received, what);
}

/// Copies between rows [Tr, C] and blocks [N, Tr, C / N] of what each rank has of them.
void copy_blocks(const at::Tensor& rows,
                 const at::Tensor& blocks,
                 const Counts& pieces,
                 bool to_blocks) {
  const int64_t size = blocks.size(0);
  for (int64_t rank = 0; rank < size; ++rank) {
    int64_t first = 0;
    for (const int64_t piece : pieces) {
      const int64_t part = piece / size;
      const at::Tensor in_rows = rows.narrow(1, first + rank * part, part),
                       in_block = blocks.select(0, rank).narrow(1, first / size, part);
      if (to_blocks)
        in_block.copy_(in_rows);
      else
        in_rows.copy_(in_block);
      first += piece;
    }
  }
}

at::Tensor to_columns(const at::Tensor& x, const Counts& pieces, const TokenShare& share) {
  const int64_t size = share.ranks->size(), width = sum(pieces) / size;
  const at::Tensor blocks = at::empty({size, share.own(), width}, x.options()),
                   columns = at::empty({share.all(), width}, x.options());
  copy_blocks(x, blocks, pieces, /*to_blocks=*/true);
  exchange(blocks, Counts(static_cast<size_t>(size), share.own()), columns, share.counts, share,
           "tokens for heads");
  return columns;
}

at::Tensor to_tokens(const at::Tensor& x, const Counts& pieces, const TokenShare& share) {
  const int64_t size = share.ranks->size(), columns = sum(pieces);
  const at::Tensor blocks = at::empty({size, share.own(), columns / size}, x.options()),
                   rows = at::empty({share.own(), columns}, x.options());
  exchange(x.contiguous(), share.counts, blocks, Counts(static_cast<size_t>(size), share.own()),
           share, "heads for tokens");
  copy_blocks(rows, blocks, pieces, /*to_blocks=*/false);
  return rows;
}

void check(const char* op,
           const at::Tensor& x,
           int64_t rows,
           int64_t columns,
           const Counts& pieces,
           const TokenShare& share) {
  LOCKSTEP_CHECK(std::ssize(share.counts) == share.ranks->size(), "{} counts for {} ranks",
                 share.counts.size(), share.ranks->size());
  if (x.dim() != 2 || x.size(0) != rows || x.size(1) != columns)
    fail<ShapeError>("bad-shape", op, "expected x [{}, {}], got {}", rows, columns, shape_text(x));
  for (const int64_t piece : pieces)
    if (piece % share.ranks->size() != 0)
      fail<ShapeError>("bad-cut", op, "expected columns that {} ranks divide, got {}",
                       share.ranks->size(), piece);
}

using Move = at::Tensor (*)(const at::Tensor&, const Counts&, const TokenShare&);

/// move(x), whose gradient is moved back: all ranks do so, also where nothing has come to one.
at::Tensor moved(
    const at::Tensor& x, const Counts& pieces, const TokenShare& share, Move move, Move back) {
  at::Tensor out;
  {
    const at::NoGradGuard no_grad;
    out = move(x.detach(), pieces, share);
  }
  if (!wants_gradient({x})) return out;
  const at::Tensor nothing = at::zeros({1, 1}, out.options()).expand(out.sizes());
  return attach_backward({x}, {out}, [=](const auto& dy, const auto&) {
    return std::vector<at::Tensor>{back(dy[0].defined() ? dy[0] : nothing, pieces, share)};
  })[0];
}

}  // namespace

int64_t TokenShare::all() const { return sum(counts); }

int64_t TokenShare::first() const {
  return std::accumulate(counts.begin(), counts.begin() + ranks->rank(), int64_t{0});
}

at::Tensor own_columns(const at::Tensor& x,
                       const std::vector<int64_t>& pieces,
                       const TokenShare& share) {
  check("own_columns", x, share.own(), sum(pieces), pieces, share);
  return moved(x, pieces, share, to_columns, to_tokens);
}

at::Tensor own_tokens(const at::Tensor& x,
                      const std::vector<int64_t>& pieces,
                      const TokenShare& share) {
  check("own_tokens", x, share.all(), sum(pieces) / share.ranks->size(), pieces, share);
  return moved(x, pieces, share, to_tokens, to_columns);
}

}  // namespace lockstep::ops
