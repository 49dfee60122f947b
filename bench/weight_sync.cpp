// The way of weights to a server of this machine, against memcpy: a block of shared memory, written
// with digests and verified by its reader; and, as other stacks do it, a checkpoint's folder.
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
#include "sync/shared_memory.h"
#include "sync/weight_image.h"
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
      // Values that differ: no page of them is shared.
      const at::Tensor value = at::randn(shape).to(at::kBFloat16);
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

void run(size_t bytes) {
  const auto tensors = tensors_of(bytes);
  const sync::ImageWriter writer(tensors);
  const auto block = sync::SharedMemory::create(writer.bytes()),
             plain = sync::SharedMemory::create(writer.bytes());
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / "lockstep-weight-sync";
  std::filesystem::create_directories(folder);
  std::vector<double> memcpy_times, write_times, verify_times, file_times;
  const auto reader = sync::SharedMemory::open(block->name(), writer.bytes());
  for (int round = 0; round <= kRounds; ++round) {
    const double plain_time = seconds_of([&] { copy_plainly(tensors, plain->bytes().data()); });
    const double write_time = seconds_of([&] { writer.write(block->bytes(), num_threads()); });
    const double verify_time = seconds_of(
        [&] { sync::WeightImage(reader, reader->bytes(), "block").verify(num_threads()); });
    const double file_time = seconds_of([&] {
      io::write_safetensors_checkpoint(folder, tensors, size_t{5} << 30);
      train::digest_tensors(io::SafetensorsCheckpoint(folder));
    });
    // The first round touches pages for the first time, as a run's first update does.
    if (round == 0) continue;
    memcpy_times.push_back(plain_time);
    write_times.push_back(write_time);
    verify_times.push_back(verify_time);
    file_times.push_back(file_time);
  }
  std::filesystem::remove_all(folder);
  const double base = median(memcpy_times);
  const auto say = [&](const char* name, double seconds) {
    std::printf("%-44s %7.2f GB/s  %5.1f %% of memcpy\n", name,
                static_cast<double>(writer.bytes()) / 1e9 / seconds, 100 * base / seconds);
  };
  std::printf("%.2f GB, %d threads\n", static_cast<double>(writer.bytes()) / 1e9, num_threads());
  say("memcpy into shared memory", base);
  say("written with digests (what a trainer does)", median(write_times));
  say("verified (what each server does)", median(verify_times));
  say("both, one after the other", median(write_times) + median(verify_times));
  say("a folder, written and digested", median(file_times));
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  lockstep::run(static_cast<size_t>((argc > 1 ? std::stod(argv[1]) : 1) * 1e9));
  return 0;
}
