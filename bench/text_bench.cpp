// Speed of the tokenizer: loading a file, encoding and decoding.
// SPDX-License-Identifier: Apache-2.0
//
// LOCKSTEP_BENCH_MODEL names a folder with tokenizer.json (tools/golden/tiktoken_to_tokenizer.py
// makes one of real size; unset: the tokenizer that ships with the program), LOCKSTEP_BENCH_TEXT a
// file whose bytes are the text.
#include <cstdlib>
#include <string>

#include <benchmark/benchmark.h>

#include "base/file.h"
#include "base/json.h"
#include "tests/support/json_lines.h"
#include "text/default_tokenizer.h"
#include "text/tokenizer.h"

namespace lockstep::text {
namespace {

const char* environment(const char* name) { return std::getenv(name); }

Tokenizer load() {
  if (const char* model = environment("LOCKSTEP_BENCH_MODEL"))
    return Tokenizer::from_directory(model);
  return Tokenizer::from_json(default_tokenizer_json(32768), nullptr, "default tokenizer");
}

const Tokenizer& tokenizer() {
  static const Tokenizer instance = load();
  return instance;
}

/// Questions and answers of GSM8K as one text, unless another text is named.
const std::string& text() {
  static const std::string instance = [] {
    if (const char* path = environment("LOCKSTEP_BENCH_TEXT")) return read_file(path);
    std::string all;
    for_each_json_line(LOCKSTEP_SOURCE_DIR "/tests/data/gsm8k/test_200.jsonl", [&](int64_t,
                                                                                   Json&& row) {
      all += row["question"].get<std::string>() + "\n" + row["answer"].get<std::string>() + "\n";
    });
    return all;
  }();
  return instance;
}

void BM_Load(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(load());
}
BENCHMARK(BM_Load)->Unit(benchmark::kMillisecond);

void BM_Encode(benchmark::State& state) {
  size_t num_ids = 0;
  for (auto _ : state) {
    const auto ids = tokenizer().encode(text());
    num_ids += ids.size();
    benchmark::DoNotOptimize(ids.data());
  }
  state.SetBytesProcessed(static_cast<int64_t>(text().size()) * state.iterations());
  state.SetItemsProcessed(static_cast<int64_t>(num_ids));
}
BENCHMARK(BM_Encode);

void BM_Decode(benchmark::State& state) {
  const auto ids = tokenizer().encode(text());
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer().decode(ids));
  state.SetBytesProcessed(static_cast<int64_t>(text().size()) * state.iterations());
  state.SetItemsProcessed(static_cast<int64_t>(ids.size()) * state.iterations());
}
BENCHMARK(BM_Decode);

}  // namespace
}  // namespace lockstep::text

BENCHMARK_MAIN();
