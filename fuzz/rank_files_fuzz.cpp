// SPDX-License-Identifier: Apache-2.0
#include <string_view>

#include "base/check.h"
#include "base/file.h"
#include "cli/weight_folder.h"
#include "fuzz/fuzz_targets.h"
#include "layout/check_source.h"
#include "layout/plan.h"
#include "tests/model/sized_model.h"
#include "tests/support/temp_dir.h"

namespace lockstep::fuzz {
namespace {

constexpr int64_t kBucketBytes = 1 << 20;

/// Two rank files on disk, of a model with everything that is read in its own way: MTP, vision,
/// experts.
class RankFiles {
 public:
  RankFiles()
      : name(model::LayoutSpec::parse("fsdp2:world=2", "fuzz")),
        model(testing::model_of({.vocab = 5,
                                 .hidden = 2,
                                 .layers = 1,
                                 .groups = 1,
                                 .members = 1,
                                 .head_dim = 2,
                                 .key_heads = 1,
                                 .values = 1,
                                 .key_dim = 1,
                                 .value_dim = 2,
                                 .experts = 2,
                                 .expert_width = 1,
                                 .shared_width = 2})) {
    const auto layout = testing::layout_of(model, name.text());
    const auto checkpoint = testing::layout_of(model, "checkpoint");
    auto original = testing::numbered(model, checkpoint);
    auto tensors = testing::convert(checkpoint, layout, original).tensors;
    cli::WeightFolderWriter output(folder.path(), layout, {}, {});
    for (int64_t r = 0; r < layout.num_ranks(); ++r)
      for (size_t t = 0; t < layout.rank(r).size(); ++t)
        if (const auto& bytes = tensors.bytes(r, static_cast<int64_t>(t)); !bytes.empty())
          output.write(r, static_cast<int64_t>(t), 0, bytes);
    output.finish();
    seed = read_file(second());
  }
  std::filesystem::path second() const { return folder / cli::rank_file_name(1, 2); }

  model::LayoutSpec name;
  model::LogicalModel model;
  testing::TempDir folder;
  std::string seed;
};

RankFiles& rank_files() {
  static RankFiles files;
  return files;
}

}  // namespace

std::string rank_file_seed() { return rank_files().seed; }

int fuzz_rank_file(std::span<const uint8_t> bytes) {
  RankFiles& files = rank_files();
  write_file(files.second(),
             std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  try {
    cli::WeightFolderReader input(files.folder.path(), 2);
    const auto found = read_folder_model(files.model.config, files.name, input);
    const auto from = make_layout(found.logical, found.form, files.name),
               to = make_layout(found.logical, found.form,
                                model::LayoutSpec::parse("checkpoint", "fuzz"));
    input.bind(from);
    const auto plan = make_plan(from, to, kBucketBytes);
    check_source(from, plan, input, {});
    layout::MemoryTensors target(to);
    execute(from, to, plan, input, target);
  } catch (const FormatError&) {
    return 0;
  }
  return 1;
}

}  // namespace lockstep::fuzz
