// SPDX-License-Identifier: Apache-2.0
//
// Every rank is a home, whose tokens are computed, and an owner, which computes for all homes with
// its own experts. A home's rows are sorted by expert, so those of one owner lie together. An owner
// computes the rows of each home as a table of its own, of the shapes that the home would give it
// alone: so no bit depends on the number of ranks, that of a gradient neither.
//
// Shapes: T tokens, D model dim, E experts, N = E / ranks own ones, R rows.
#include "ops/expert_ranks.h"

#include <bit>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include <ATen/core/IListRef.h>  // the list of at::cat

#include "base/check.h"
#include "ops/expert_dispatch.h"
#include "ops/expert_table.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tensor/index_tensor.h"

namespace lockstep::ops {
namespace {

using Counts = std::vector<int64_t>;

int64_t sum(const Counts& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

/// Sends each rank so many of the rows, one behind another, and returns what comes from all.
/// Shapes: [R, ...] -> [R', ...].
at::Tensor exchange_rows(ExpertRanks& ranks,
                         const at::Tensor& rows,
                         const Counts& sent,
                         const Counts& received,
                         const char* what) {
  LOCKSTEP_CHECK(rows.is_contiguous() && rows.size(0) == sum(sent), "{}: {} rows, {} to send", what,
                 rows.size(0), sum(sent));
  std::vector<int64_t> sizes = rows.sizes().vec();
  sizes[0] = sum(received);
  at::Tensor got = at::empty(sizes, rows.options());
  const int64_t width =
      c10::multiply_integers(rows.sizes().slice(1)) * static_cast<int64_t>(rows.element_size());
  const auto bytes_of = [&](const Counts& counts) {
    Counts bytes;
    for (const int64_t count : counts) bytes.push_back(count * width);
    return bytes;
  };
  ranks.exchange({static_cast<const std::byte*>(rows.const_data_ptr()), rows.nbytes()},
                 bytes_of(sent), {static_cast<std::byte*>(got.mutable_data_ptr()), got.nbytes()},
                 bytes_of(received), what);
  return got;
}

/// The rows of each rank.
std::vector<at::Tensor> split(const at::Tensor& rows, const Counts& counts) {
  std::vector<at::Tensor> parts;
  int64_t first = 0;
  for (const int64_t count : counts) {
    parts.push_back(rows.narrow(0, first, count));
    first += count;
  }
  return parts;
}

/// A and B of the terms beside one product; undefined where a term has none.
struct Pairs {
  std::vector<at::Tensor> a, b;

  void append(const ExpertLowRank* pair) {
    a.push_back(pair ? pair->a.weight : at::Tensor());
    b.push_back(pair ? pair->b.weight : at::Tensor());
  }
};

/// What a home tells each owner before its rows.
struct Announcement {
  bool learns = false;
  /// By term: whether any of its tokens has it, and with which dropout.
  std::vector<bool> has_term;
  std::vector<double> rates;
  /// By own expert of the owner.
  Counts rows;
};

/// One forward over the ranks, and what its backward needs.
class Exchange {
 public:
  Exchange(const at::Tensor& x,
           const Routing& routing,
           const ExpertBank& gate_up,
           const ExpertBank& down,
           std::span<const ExpertTerm> terms,
           ExpertRanks& ranks)
      : ranks_(ranks),
        num_own_(gate_up.weight.size(0) / ranks.size()),
        own_{ranks.rank() * num_own_, num_own_},
        weights_(routing.weights.detach().contiguous()),
        dispatch_(routing.experts.contiguous(), gate_up.weight.size(0)),
        gate_up_(gate_up.weight),
        down_(down.weight),
        learns_(ranks.learns()) {
    LOCKSTEP_CHECK(num_own_ * ranks.size() == gate_up.weight.size(0), "{} experts over {} ranks",
                   gate_up.weight.size(0), ranks.size());
    for (const ExpertTerm& term : terms) {
      gate_up_pairs_.append(term.gate_up);
      down_pairs_.append(term.down);
    }
    announce(terms);
    const at::Tensor rows =
        send_home_rows(dispatch_.gather(x.detach().contiguous()), "experts: rows");
    const at::Tensor marks =
        terms.empty() ? at::Tensor()
                      : send_home_rows(marks_of(terms, x.size(0)), "experts: adapters of rows");
    const auto tables = split(rows, received_);
    int64_t first = 0;
    for (size_t home = 0; home < tables.size(); ++home) {
      const at::Tensor own = marks.defined() ? marks.narrow(0, first, received_[home]) : marks;
      homes_.push_back(make_home(home, tables[home], own, terms));
      first += received_[home];
    }
  }

  /// [T, D]
  at::Tensor forward(const ExpertBanks& banks) {
    std::vector<at::Tensor> summands;
    for (Home& home : homes_) summands.push_back(home.table.forward(home.rows, banks));
    const at::Tensor own =
        exchange_rows(ranks_, at::cat(summands), received_, sent_, "experts: outputs");
    return dispatch_.combine(own, weights_);
  }
  /// As the backward of experts(): what is left for autograd, in its order.
  std::vector<at::Tensor> backward(const ExpertBanks& banks,
                                   const at::Tensor& dout,
                                   const std::vector<bool>& needs) const;

  std::vector<at::Tensor> inputs(const at::Tensor& x, const at::Tensor& weights) const {
    std::vector<at::Tensor> all{x, weights, gate_up_, down_};
    for (const Pairs* pairs : {&gate_up_pairs_, &down_pairs_})
      for (size_t i = 0; i < pairs->a.size(); ++i)
        if (pairs->a[i].defined()) all.insert(all.end(), {pairs->a[i], pairs->b[i]});
    return all;
  }

 private:
  struct Home {
    /// [R, D]
    at::Tensor rows;
    ExpertTable table;
  };

  void announce(std::span<const ExpertTerm> terms);
  at::Tensor marks_of(std::span<const ExpertTerm> terms, int64_t tokens) const;
  at::Tensor send_home_rows(const at::Tensor& rows, const char* what) const {
    return exchange_rows(ranks_, rows, sent_, received_, what);
  }
  Home make_home(size_t home,
                 const at::Tensor& rows,
                 const at::Tensor& marks,
                 std::span<const ExpertTerm> terms) const;
  void take_gradients(size_t home, const ExpertTable::Gradients& gradients) const;

  ExpertRanks& ranks_;
  int64_t num_own_;
  ExpertRange own_;
  /// [T, K]
  at::Tensor weights_;
  ExpertDispatch dispatch_;
  at::Tensor gate_up_, down_;
  Pairs gate_up_pairs_, down_pairs_;
  bool learns_;
  /// Rows by rank: of this home, and for this owner.
  Counts sent_, received_;
  std::vector<Announcement> said_;
  std::vector<Home> homes_;
};

void Exchange::announce(std::span<const ExpertTerm> terms) {
  const auto size = static_cast<size_t>(ranks_.size());
  LOCKSTEP_CHECK(terms.size() < 62, "{} adapters", terms.size());
  int64_t flags = learns_;
  for (size_t i = 0; i < terms.size(); ++i)
    if (!terms[i].tokens.defined() || terms[i].tokens.numel() > 0) flags |= int64_t{2} << i;
  const auto first_count = std::ssize(terms) + 1, width = first_count + num_own_;
  const at::Tensor said = at::zeros({ranks_.size(), width}, at::TensorOptions().dtype(at::kLong));
  int64_t* const numbers = said.mutable_data_ptr<int64_t>();
  sent_.assign(size, 0);
  for (int64_t owner = 0; owner < ranks_.size(); ++owner) {
    numbers[owner * width] = flags;
    for (size_t i = 0; i < terms.size(); ++i)
      numbers[owner * width + 1 + static_cast<int64_t>(i)] =
          std::bit_cast<int64_t>(terms[i].dropout.rate);
  }
  for (const ExpertSegment& s : dispatch_.segments) {
    const int64_t owner = s.expert / num_own_;
    numbers[owner * width + first_count + s.expert % num_own_] = s.count;
    sent_[static_cast<size_t>(owner)] += s.count;
  }
  const Counts each(size, 1);
  const at::Tensor heard = exchange_rows(ranks_, said, each, each, "experts: counts");
  const int64_t* next = heard.const_data_ptr<int64_t>();
  for (size_t home = 0; home < size; ++home, next += width) {
    Announcement& of = said_.emplace_back();
    of.learns = next[0] & 1;
    for (size_t i = 0; i < terms.size(); ++i) {
      of.has_term.push_back(next[0] >> (i + 1) & 1);
      of.rates.push_back(std::bit_cast<double>(next[1 + i]));
    }
    of.rows.assign(next + first_count, next + width);
    received_.push_back(sum(of.rows));
  }
}

/// By row: the number of its term or -1, and the key that its token drops by. [R, 2] int64.
at::Tensor Exchange::marks_of(std::span<const ExpertTerm> terms, int64_t tokens) const {
  std::vector<int64_t> term_of(static_cast<size_t>(tokens), -1);
  std::vector<int64_t> key_of(static_cast<size_t>(tokens));
  for (size_t i = 0; i < terms.size(); ++i) {
    const ExpertTerm& term = terms[i];
    const auto mark = [&](int64_t token) {
      LOCKSTEP_CHECK(term_of[static_cast<size_t>(token)] < 0, "token {} has two adapters", token);
      term_of[static_cast<size_t>(token)] = static_cast<int64_t>(i);
      if (term.dropout.rate != 0)
        key_of[static_cast<size_t>(token)] = term.dropout.keys.const_data_ptr<int64_t>()[token];
    };
    const int64_t count = term.tokens.defined() ? term.tokens.numel() : tokens;
    for (int64_t k = 0; k < count; ++k)
      mark(term.tokens.defined() ? term.tokens.const_data_ptr<int64_t>()[k] : k);
  }
  std::vector<int64_t> marks;
  for (const int64_t token : dispatch_.token_of_row)
    marks.insert(marks.end(),
                 {term_of[static_cast<size_t>(token)], key_of[static_cast<size_t>(token)]});
  return index_tensor(marks).view({-1, 2});
}

Exchange::Home Exchange::make_home(size_t home,
                                   const at::Tensor& rows,
                                   const at::Tensor& marks,
                                   std::span<const ExpertTerm> terms) const {
  const Announcement& said = said_[home];
  std::vector<ExpertSegment> segments;
  int64_t first = 0;
  for (int64_t i = 0; i < num_own_; ++i) {
    const int64_t count = said.rows[static_cast<size_t>(i)];
    if (count) segments.push_back({own_.first + i, first, count});
    first += count;
  }
  std::vector<AdaptedExpertRows> adapted;
  std::vector<ExpertTerm> of_home;
  for (size_t i = 0; i < terms.size(); ++i)
    of_home.push_back({terms[i].gate_up, terms[i].down, {}, {said.rates[i], {}}});
  const int64_t* const mark = marks.defined() ? marks.const_data_ptr<int64_t>() : nullptr;
  for (size_t i = 0; i < terms.size(); ++i) {
    if (!said.has_term[i]) continue;
    AdaptedExpertRows& own =
        adapted.emplace_back(AdaptedExpertRows{.term = &of_home[i], .rows = {}});
    for (int64_t row = 0; row < rows.size(0); ++row) {
      if (mark[2 * row] == static_cast<int64_t>(i)) own.rows.push_back(row);
      if (said.rates[i] != 0) own.keys.push_back(mark[2 * row + 1]);
    }
    own.has_all = std::ssize(own.rows) == rows.size(0);
    if (own.has_all) own.rows.clear();
  }
  return {rows, ExpertTable(std::move(segments), own_, adapted)};
}

/// Hands on what an owner's experts have learned from a home's rows.
void Exchange::take_gradients(size_t home, const ExpertTable::Gradients& gradients) const {
  const auto take = [&](const at::Tensor& bank, const at::Tensor& gradient) {
    if (gradient.defined()) ranks_.take_gradient(bank, static_cast<int64_t>(home), gradient);
  };
  take(gate_up_, gradients.gate_up);
  take(down_, gradients.down);
  const auto take_pairs = [&](const Pairs& pairs, const std::vector<PairGradients>& found) {
    auto next = found.begin();
    for (size_t i = 0; i < pairs.a.size() && next != found.end(); ++i) {
      if (!pairs.a[i].defined() || !said_[home].has_term[i]) continue;
      take(pairs.a[i], next->a);
      take(pairs.b[i], next->b);
      ++next;
    }
  };
  take_pairs(gate_up_pairs_, gradients.gate_up_pairs);
  take_pairs(down_pairs_, gradients.down_pairs);
}

std::vector<at::Tensor> Exchange::backward(const ExpertBanks& banks,
                                           const at::Tensor& dout,
                                           const std::vector<bool>& needs) const {
  // Homes that do not learn send nothing.
  Counts sent = sent_, received = received_;
  if (!learns_) sent.assign(sent.size(), 0);
  for (size_t home = 0; home < received.size(); ++home)
    if (!said_[home].learns) received[home] = 0;
  const auto send = [&](const at::Tensor& rows, const char* what) {
    return split(exchange_rows(ranks_, learns_ ? rows : rows.narrow(0, 0, 0), sent, received, what),
                 received);
  };
  const auto dy = send(dispatch_.gather(dout.contiguous()), "experts: gradients of outputs");
  const auto weights = send(dispatch_.weights_of_rows(weights_), "experts: weights of rows");
  constexpr size_t kFirstPair = 4;
  size_t down_pairs = kFirstPair;
  for (const at::Tensor& a : gate_up_pairs_.a) down_pairs += a.defined() ? 2 : 0;
  const ExpertTable::Needs needed{.input = needs[0],
                                  .gate_up = needs[2],
                                  .down = needs[3],
                                  .gate_up_pairs = any_of(needs, kFirstPair),
                                  .down_pairs = any_of(needs, down_pairs)};
  std::vector<at::Tensor> drows, dweights;
  for (size_t home = 0; home < homes_.size(); ++home) {
    if (!said_[home].learns) continue;
    const Home& of = homes_[home];
    const auto found = of.table.backward(
        banks, dy[home], weights[home], [&] { return of.rows; }, needed);
    take_gradients(home, found);
    drows.push_back(found.table);
    dweights.push_back(found.weights);
  }
  std::vector<at::Tensor> gradients(needs.size());
  const auto send_back = [&](const std::vector<at::Tensor>& rows, const at::Tensor& like,
                             const char* what) {
    const at::Tensor own =
        exchange_rows(ranks_, rows.empty() ? like.narrow(0, 0, 0).contiguous() : at::cat(rows),
                      received, sent, what);
    if (learns_) return own;
    std::vector<int64_t> sizes = like.sizes().vec();
    sizes[0] = dispatch_.num_rows();
    return at::zeros(sizes, like.options());
  };
  gradients[1] =
      dispatch_.by_pair(send_back(dweights, weights.front(), "experts: gradients of weights"))
          .to(weights_.scalar_type());
  if (needs[0])
    gradients[0] =
        dispatch_.combine(send_back(drows, dy.front(), "experts: gradients of rows"), at::Tensor());
  return gradients;
}

}  // namespace

at::Tensor experts_over_ranks(const at::Tensor& x,
                              const Routing& routing,
                              const ExpertBank& gate_up,
                              const ExpertBank& down,
                              std::span<const ExpertTerm> terms,
                              ExpertRanks& ranks) {
  at::Tensor out;
  std::shared_ptr<Exchange> exchange;
  {
    at::NoGradGuard no_grad;
    exchange = std::make_shared<Exchange>(x, routing, gate_up, down, terms, ranks);
    out = exchange->forward({gate_up, down});
  }
  const std::vector<at::Tensor> inputs = exchange->inputs(x, routing.weights);
  if (!wants_gradient(inputs)) return out;
  return attach_backward(inputs, {out},
                         [exchange, gate_up, down](const auto& dout, const auto& needs) {
                           LOCKSTEP_CHECK(dout[0].defined(), "no gradient of what experts gave");
                           return exchange->backward({gate_up, down}, dout[0], needs);
                         })[0];
}

}  // namespace lockstep::ops
