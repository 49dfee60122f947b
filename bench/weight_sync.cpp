// The ways of weights to a server, against memcpy: a block of shared memory, written with digests
// and verified by its reader; the same block over TCP on loopback, digested as it comes; what a
// step at a learning rate of 1e-6 changes in it; and, as other stacks do it, a checkpoint's folder,
// and a request of HTTP for each tensor.
// SPDX-License-Identifier: Apache-2.0
//
//   build-bench/bench/lockstep_weight_sync [GIGABYTES]
//
// Bytes count once. memcpy moves the same tensors into such a block with as many threads, in turn
// with each case. Rates are medians over the rounds.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "io/safetensors.h"
#include "net/http_client.h"
#include "serve/http_server.h"
#include "sync/shared_memory.h"
#include "sync/weight_delta.h"
#include "sync/weight_image.h"
#include "sync/weight_receiver.h"
#include "sync/weight_sender.h"
#include "tensor/aten.h"
#include "train/hf_checkpoint.h"

namespace lockstep {
namespace {

constexpr int kRounds = 9;

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

int num_threads() { return static_cast<int>(std::thread::hardware_concurrency()); }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Layers of a dense model in bfloat16: a few shapes, many times.
std::vector<io::NamedTensor> tensors_of(size_t bytes) {
  std::vector<io::NamedTensor> tensors;
  const std::vector<int64_t> shapes[] = {
      {6144, 2048}, {2048, 4096}, {12288, 2048}, {2048, 6144}, {2048}};
  for (size_t total = 0; total < bytes;)
    for (const auto& shape : shapes) {
      // As models begin, and no page of them is shared.
      constexpr double kDeviation = 0.02;
      const at::Tensor value = (at::randn(shape) * kDeviation).to(at::kBFloat16);
      total += value.nbytes();
      tensors.push_back({"tensor." + std::to_string(tensors.size()), value});
    }
  return tensors;
}

/// Copies all tensors, each thread a share of every one.
void copy_plainly(const std::vector<io::NamedTensor>& tensors, std::byte* to) {
  std::vector<std::jthread> threads;
  const auto count = static_cast<size_t>(num_threads());
  for (size_t t = 0; t < count; ++t)
    threads.emplace_back([&, t] {
      size_t at = 0;
      for (const io::NamedTensor& named : tensors) {
        const size_t size = named.tensor.nbytes(), begin = size * t / count,
                     end = size * (t + 1) / count;
        std::memcpy(to + at + begin,
                    static_cast<const std::byte*>(named.tensor.const_data_ptr()) + begin,
                    end - begin);
        at += size;
      }
    });
}

/// Times of the rounds by name, in the order in which the names came.
class Times {
 public:
  void add(const std::string& name, double seconds) {
    for (auto& [known, values] : all_)
      if (known == name) return values.push_back(seconds);
    all_.push_back({name, {seconds}});
  }
  /// The first of all is what the others are compared with.
  void print(double bytes) const {
    const double base = median(all_.front().second);
    for (const auto& [name, values] : all_)
      std::printf("%-52s %7.2f GB/s  %5.1f %% of memcpy\n", name.c_str(),
                  bytes / 1e9 / median(values), 100 * base / median(values));
  }

 private:
  std::vector<std::pair<std::string, std::vector<double>>> all_;
};

/// A trainer that listens and a receiver, as grpo and a server have them.
class OverTcp {
 public:
  explicit OverTcp(const sync::ImageWriter& writer)
      : writer_(writer), block_(sync::SharedMemory::create_nameless(writer.bytes())) {}

  void write(bool with_delta) {
    sender_.withdraw();
    const std::string base = digest_;
    sync::DeltaWriter changes(writer_.bytes());
    sync::ImageWriter::OnReplace compare;
    if (with_delta)
      compare = [&](size_t i, auto before, auto after) {
        changes.add(i, before, after, writer_.element_bytes(i));
      };
    digest_ = writer_.write(block_->bytes(), num_threads(), compare).hex();
    sync::SentWeights sent{.digest = digest_, .block = block_};
    offered_ = {.from = sender_.address(), .digest = digest_, .bytes = writer_.bytes()};
    if (with_delta) {
      const auto delta = changes.finish(base, digest_, writer_.bytes(),
                                        block_->bytes().first(writer_.header_bytes()));
      sent.base = offered_.base = base;
      const auto kept = sync::SharedMemory::create_nameless(delta.size());
      std::memcpy(kept->bytes().data(), delta.data(), delta.size());
      sent.delta = kept;
      offered_.delta_bytes = delta.size();
      changed_ = static_cast<double>(changes.changed()) / static_cast<double>(changes.elements());
    }
    sender_.offer(std::move(sent));
  }
  void receive() {
    receiver_.receive(offered_, 2 * writer_.bytes(), [](const sync::WeightImage&) {});
  }
  /// The same bytes over as many connections, without digests: what the system gives at best.
  void receive_alone() {
    bytes_.resize(writer_.bytes());
    constexpr size_t kConnections = 4;
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < kConnections; ++i)
      threads.emplace_back([&, i] {
        const size_t begin = bytes_.size() * i / kConnections,
                     end = bytes_.size() * (i + 1) / kConnections;
        sync::Connection connection(offered_.from.host, offered_.from.port,
                                    std::chrono::minutes(1));
        sync::ask_for(connection, {.token = offered_.from.token,
                                   .weights = digest_,
                                   .base = "",
                                   .begin = begin,
                                   .end = end});
        connection.receive_all(std::span(bytes_).subspan(begin, end - begin));
      });
  }
  size_t delta_bytes() const { return offered_.delta_bytes; }
  double changed() const { return changed_; }

 private:
  const sync::ImageWriter& writer_;
  std::shared_ptr<sync::SharedMemory> block_;
  sync::WeightSender sender_{"127.0.0.1", 0};
  sync::WeightReceiver receiver_;
  sync::OfferedBlock offered_;
  std::string digest_;
  std::vector<std::byte> bytes_;
  double changed_ = 0;
};

/// Each tensor is the body of a request to a server that copies it, without digests.
class OverHttp {
 public:
  explicit OverHttp(const std::vector<io::NamedTensor>& tensors)
      : tensors_(tensors),
        taken_(tensors.size()),
        server_(
            "127.0.0.1",
            0,
            {},
            [this](serve::HttpRequest&& request,
                   const std::shared_ptr<serve::HttpResponder>& responder) {
              auto& to = taken_[std::stoull(request.path.substr(1))];
              to.resize(request.body.size());
              std::memcpy(to.data(), request.body.data(), to.size());
              responder->respond({.body = "{}"});
            },
            [](int, std::string_view) { return std::string(); }),
        client_("http://127.0.0.1:" + std::to_string(server_.port()), "") {}

  void send() const {
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const at::Tensor& tensor = tensors_[i].tensor;
      const std::string body(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
      client_.post("/" + std::to_string(i), body, std::chrono::minutes(1));
    }
  }

 private:
  const std::vector<io::NamedTensor>& tensors_;
  std::vector<std::vector<char>> taken_;
  serve::HttpServer server_;
  net::HttpClient client_;
};

/// What an optimizer step at a learning rate of 1e-6 does to weights of this size: AdamW moves each
/// by about the rate, and bfloat16 takes over what its last place can show.
void step(std::vector<io::NamedTensor>& tensors, std::vector<at::Tensor>& masters) {
  constexpr double kLearningRate = 1e-6;
  for (size_t i = 0; i < tensors.size(); ++i) {
    masters[i].add_(at::randn(masters[i].sizes()).clamp_(-1, 1), kLearningRate);
    tensors[i].tensor.copy_(masters[i]);
  }
}

void run(size_t bytes) {
  auto tensors = tensors_of(bytes);
  std::vector<at::Tensor> masters;
  for (const io::NamedTensor& named : tensors) masters.push_back(named.tensor.to(at::kFloat));
  const sync::ImageWriter writer(tensors);
  const auto block = sync::SharedMemory::create(writer.bytes()),
             plain = sync::SharedMemory::create(writer.bytes());
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / "lockstep-weight-sync";
  std::filesystem::create_directories(folder);
  const auto reader = sync::SharedMemory::open(block->name(), writer.bytes());
  OverTcp tcp(writer), deltas(writer);
  deltas.write(/*with_delta=*/false);
  deltas.receive();
  const OverHttp http(tensors);
  Times times;
  for (int round = 0; round <= kRounds; ++round) {
    step(tensors, masters);
    std::vector<std::pair<std::string, double>> taken;
    const auto time = [&](const char* name, const std::function<void()>& work) {
      taken.emplace_back(name, seconds_of(work));
      return taken.back().second;
    };
    time("memcpy into shared memory", [&] { copy_plainly(tensors, plain->bytes().data()); });
    const double write = time("shm: written with digests (a trainer)",
                              [&] { writer.write(block->bytes(), num_threads()); });
    const double verify = time("shm: verified (each server)", [&] {
      sync::WeightImage(reader, reader->bytes(), "block").verify(num_threads());
    });
    taken.emplace_back("shm: one after the other", write + verify);
    const double tcp_write = time("tcp: written with digests", [&] { tcp.write(false); });
    time("tcp: sent and received, no digests", [&] { tcp.receive_alone(); });
    const double tcp_receive = time("tcp: sent, received and digested", [&] { tcp.receive(); });
    taken.emplace_back("tcp: one after the other", tcp_write + tcp_receive);
    const double delta_write =
        time("delta: compared, packed, written", [&] { deltas.write(true); });
    const double delta_receive =
        time("delta: sent, applied and digested", [&] { deltas.receive(); });
    taken.emplace_back("delta: one after the other", delta_write + delta_receive);
    time("HTTP: a request for each tensor, no digests", [&] { http.send(); });
    time("a folder, written and digested", [&] {
      io::write_safetensors_checkpoint(folder, tensors, size_t{5} << 30);
      train::digest_tensors(io::SafetensorsCheckpoint(folder));
    });
    // The first round touches pages for the first time, as a run's first update does.
    if (round == 0) continue;
    for (const auto& [name, seconds] : taken) times.add(name, seconds);
  }
  std::filesystem::remove_all(folder);
  std::printf("%.2f GB, %d threads\n", static_cast<double>(writer.bytes()) / 1e9, num_threads());
  times.print(static_cast<double>(writer.bytes()));
  std::printf("delta: %.2f %% of all elements changed; %.4f GB, 1/%.1f of the block\n",
              100 * deltas.changed(), static_cast<double>(deltas.delta_bytes()) / 1e9,
              static_cast<double>(writer.bytes()) / static_cast<double>(deltas.delta_bytes()));
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  lockstep::run(static_cast<size_t>((argc > 1 ? std::stod(argv[1]) : 1) * 1e9));
  return 0;
}
