// What a person sees: the program on a terminal of this test's own, narrow and wide, and what it
// writes where there is none.
// SPDX-License-Identifier: Apache-2.0
#include <csignal>
#include <functional>
#include <map>
#include <poll.h>
#include <pty.h>
#include <set>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"

namespace lockstep::testing {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

/// What came to a terminal: the lines that stay on it, and each state of the row that is drawn
/// again and again.
struct Screen {
  int exit_code = -1;
  std::vector<std::string> lines, drawn;
  /// The row that the cursor is left in.
  std::string last;

  std::string text() const {
    std::string all;
    for (const std::string& line : lines) all += line + "\n";
    return all;
  }
};

size_t columns_of(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

/// Follows the movements that the program makes: carriage returns, rows up, and "erase to the end
/// of the line" or "of the window".
class Follower {
 public:
  void take(char c) {
    if (!escape_.empty())
      take_escape(c);
    else if (c == '\x1b')
      escape_ = c;
    else if (c == '\r')
      go_to_start();
    else if (c == '\n')
      go_down();
    else
      write(c);
  }
  Screen screen() const {
    Screen screen;
    screen.lines.assign(rows_.begin(), rows_.end() - 1);
    screen.drawn = drawn_;
    screen.last = rows_.back();
    return screen;
  }

 private:
  std::string& row() { return rows_[at_]; }
  void go_to_start() {
    if (!row().empty()) drawn_.push_back(row());
    column_ = 0;
  }
  void go_down() {
    if (++at_ == rows_.size()) rows_.emplace_back();
    column_ = 0;
  }
  void write(char c) {
    if (column_ < row().size())
      row()[column_] = c;
    else
      row() += c;
    ++column_;
  }
  void take_escape(char c) {
    escape_ += c;
    if (c == '[' || (c >= '0' && c <= '9')) return;
    if (c == 'K') {
      row().resize(std::min(row().size(), column_));
    } else if (c == 'J') {
      row().resize(std::min(row().size(), column_));
      rows_.resize(at_ + 1);
    } else if (c == 'A') {
      const auto up = static_cast<size_t>(std::stoi(escape_.substr(2)));
      ASSERT_LE(up, at_);
      for (size_t i = 0; i < up; ++i) drawn_.push_back(rows_[--at_]);
    } else {
      ADD_FAILURE() << "another escape sequence: " << escape_.substr(1);
    }
    escape_.clear();
  }

  std::vector<std::string> rows_{""}, drawn_;
  size_t at_ = 0, column_ = 0;
  std::string escape_;
};

/// The terminal's driver writes each end of a line as "\r\n".
std::string without_returns(std::string bytes) {
  for (size_t at; (at = bytes.find("\r\n")) != std::string::npos;) bytes.erase(at, 1);
  return bytes;
}

Screen screen_of(const std::string& bytes) {
  Follower follower;
  for (const char c : bytes) follower.take(c);
  return follower.screen();
}

/// What a test does to a terminal while the program writes to it; called with what has come.
using OnBytes = std::function<void(int terminal, pid_t process, const std::string& bytes)>;

/// Runs the program with stdin, stdout and stderr on a terminal of `columns` columns.
Screen run_on_terminal(const Arguments& arguments,
                       int columns,
                       const char* kind = "xterm",
                       const OnBytes& on_bytes = nullptr) {
  winsize size{};
  size.ws_col = static_cast<unsigned short>(columns);
  size.ws_row = 24;
  std::vector<std::string> words{program_path()};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> list;
  for (std::string& word : words) list.push_back(word.data());
  list.push_back(nullptr);
  int terminal = -1;
  const pid_t process = ::forkpty(&terminal, nullptr, nullptr, &size);
  if (process == 0) {
    ::setenv("TERM", kind, 1);
    ::execv(list[0], list.data());
    ::_exit(127);
  }
  std::string bytes;
  char part[4096];
  for (ssize_t count; (count = ::read(terminal, part, sizeof(part))) > 0;) {
    bytes.append(part, static_cast<size_t>(count));
    if (on_bytes) on_bytes(terminal, process, bytes);
  }
  int status = 0;
  ::waitpid(process, &status, 0);
  ::close(terminal);
  Screen screen = screen_of(without_returns(bytes));
  screen.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return screen;
}

class Terminal : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new TempDir;
    new_model(*shared_, "model", {"--like", "qwen3_5"});
    write_rows(*shared_, "rows.jsonl", sum_rows(16));
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }
  static std::string path_of(const std::string& name) { return (*shared_ / name).string(); }

  /// A run whose phases last some tenths of a second, so that each is drawn.
  Arguments grpo(int max_steps = 4) const {
    return {"grpo",
            "--model",
            path_of("model"),
            "--tuner_type",
            "full",
            "--dataset",
            path_of("rows.jsonl"),
            "--val_dataset",
            path_of("rows.jsonl") + "#4",
            "--output_dir",
            (folder_ / "run").string(),
            "--reward_funcs",
            "format",
            "soft_overlong",
            "--soft_cache_length",
            "8",
            "--num_generations",
            "8",
            "--per_device_train_batch_size",
            "64",
            "--max_completion_length",
            "48",
            "--max_steps",
            std::to_string(max_steps),
            "--eval_steps",
            "4",
            "--num_generations_eval",
            "256",  // long enough to be seen on a fast processor
            "--logging_steps",
            "2",
            "--threads",
            "1"};
  }

  static inline TempDir* shared_ = nullptr;
  TempDir folder_;
};

/// The lines that begin with `start`.
std::vector<std::string> lines_with(const std::vector<std::string>& lines,
                                    const std::string& start) {
  std::vector<std::string> found;
  for (const std::string& line : lines)
    if (line.starts_with(start)) found.push_back(line);
  return found;
}

/// The lines of logged steps, which say of how many they are.
std::vector<std::string> logged_steps(const std::vector<std::string>& lines) {
  std::vector<std::string> found = lines_with(lines, "step ");
  std::erase_if(found, [](const std::string& line) {
    return line.find('/') == std::string::npos || line.find('/') > line.find(' ', 5);
  });
  return found;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines{""};
  for (const char c : text)
    if (c == '\n')
      lines.emplace_back();
    else
      lines.back() += c;
  lines.pop_back();
  return lines;
}

TEST_F(Terminal, ARunShowsItsPhaseTokensASecondAndTheTimeLeft) {
  const Screen screen = run_on_terminal(grpo(), 200);
  ASSERT_EQ(screen.exit_code, 0) << screen.text();
  for (const char* phase : {"sampling ", "training ", "evaluating "})
    EXPECT_THAT(screen.drawn, Contains(HasSubstr(phase)));
  EXPECT_THAT(screen.drawn, Contains(HasSubstr(" tokens/s")));
  EXPECT_THAT(screen.drawn, Contains(HasSubstr(" left")));
  EXPECT_THAT(screen.drawn, Contains(StartsWith("step [")));
  for (const std::string& row : screen.drawn) EXPECT_LT(columns_of(row), 200u) << row;
  EXPECT_EQ(screen.last, "");  // the shell's prompt comes to an empty row

  // A logged step is one line.
  const auto steps = logged_steps(screen.lines);
  EXPECT_EQ(steps.size(), 3u) << screen.text();
  EXPECT_THAT(screen.text(), HasSubstr("step 1/4  loss "));
  for (const char* field : {"  reward ", "  length ", "  clipped ", "  kl ", "  gradient norm ",
                            " tokens/s", " s a step: sampling "})
    EXPECT_THAT(screen.text(), HasSubstr(field));
  EXPECT_THAT(screen.text(), HasSubstr("evaluation at step 4/4  reward "));
  EXPECT_THAT(screen.text(), Not(HasSubstr("{\"")));
}

/// On a terminal of 80 columns, and on a narrower one.
TEST_F(Terminal, ALoggedStepIsOneLineOnANarrowTerminal) {
  for (const int columns : {80, 60}) {
    Arguments arguments = grpo(2);
    arguments.insert(arguments.end(), {"--overwrite", "true"});
    const Screen screen = run_on_terminal(arguments, columns);
    ASSERT_EQ(screen.exit_code, 0) << screen.text();
    const auto width = static_cast<size_t>(columns);
    EXPECT_THAT(screen.drawn, Contains(HasSubstr("sampling ")));
    for (const std::string& row : screen.drawn) EXPECT_LT(columns_of(row), width) << row;
    int64_t logged = 0;
    for (size_t i = 0; i < screen.lines.size(); ++i) {
      if (screen.lines[i].find("±") == std::string::npos) continue;
      ++logged;
      EXPECT_LE(columns_of(screen.lines[i]), width) << screen.lines[i];
      EXPECT_THAT(screen.lines[i], HasSubstr("reward "));
    }
    // Of two steps and an evaluation.
    EXPECT_EQ(logged, 3) << screen.text();
    EXPECT_EQ(screen.last, "");
  }
}

/// Above the progress line stand how the run learns and what it writes.
TEST_F(Terminal, ARunShowsItsCurveAndASampleWhichLeaveNoTrace) {
  const Screen screen = run_on_terminal(grpo() + Arguments{"--logging_steps", "1"}, 160);
  ASSERT_EQ(screen.exit_code, 0) << screen.text();
  for (const char* part : {"reward ", "▁", " ± ", "  length ", "  kl ", "  memory "})
    EXPECT_THAT(screen.drawn, Contains(AllOf(StartsWith("reward "), HasSubstr(part))));
  EXPECT_THAT(screen.drawn, Contains(AllOf(StartsWith("sample  reward "), HasSubstr(" tokens"))));
  for (const std::string& row : screen.drawn) EXPECT_LT(columns_of(row), 160u) << row;
  EXPECT_THAT(lines_with(screen.lines, "reward "), IsEmpty()) << screen.text();
  EXPECT_THAT(lines_with(screen.lines, "sample "), IsEmpty()) << screen.text();
  EXPECT_THAT(logged_steps(screen.lines), ::testing::SizeIs(4));
  EXPECT_EQ(screen.last, "");
}

TEST_F(Terminal, TheKindOfProgressIsChosen) {
  const Screen bar = run_on_terminal(grpo(2) + Arguments{"--progress", "bar"}, 120);
  EXPECT_THAT(bar.drawn, Contains(HasSubstr("sampling ")));
  EXPECT_THAT(lines_with(bar.drawn, "reward "), IsEmpty());
  for (const char* kind : {"plain", "none"}) {
    const Screen screen =
        run_on_terminal(grpo(2) + Arguments{"--overwrite", "true", "--progress", kind}, 120);
    EXPECT_EQ(screen.exit_code, 0);
    EXPECT_THAT(screen.drawn, IsEmpty());
    EXPECT_THAT(screen.lines, Contains(StartsWith("step 2/2 ")));
  }
}

/// The window becomes narrower and wider while the rows are drawn.
TEST_F(Terminal, AWindowThatChangesItsSizeIsDrawnIn) {
  /// How many states of rows had been drawn when the window got this width.
  std::map<int, size_t> drawn_at;
  const Screen screen = run_on_terminal(
      grpo(16) + Arguments{"--logging_steps", "1"}, 150, "xterm",
      [&](int terminal, pid_t, const std::string& bytes) {
        const std::pair<const char*, int> changes[] = {{" 4/16 ", 60}, {" 9/16 ", 100}};
        for (const auto& [when, width] : changes) {
          if (bytes.find(when) == std::string::npos || drawn_at.contains(width)) continue;
          winsize size{};
          size.ws_col = static_cast<unsigned short>(width);
          size.ws_row = 24;
          ::ioctl(terminal, TIOCSWINSZ, &size);
          drawn_at[width] = screen_of(without_returns(bytes)).drawn.size();
        }
      });
  ASSERT_EQ(screen.exit_code, 0) << screen.text();
  ASSERT_EQ(drawn_at.size(), 2u);
  // What was on its way is still of the old width.
  constexpr size_t kOnItsWay = 6;
  const auto widest = [&](size_t begin, size_t end) {
    size_t most = 0;
    for (size_t i = begin; i < std::min(end, screen.drawn.size()); ++i)
      most = std::max(most, columns_of(screen.drawn[i]));
    return most;
  };
  EXPECT_GT(widest(0, drawn_at[60]), 100u);
  ASSERT_GT(drawn_at[100], drawn_at[60] + kOnItsWay);
  EXPECT_LT(widest(drawn_at[60] + kOnItsWay, drawn_at[100]), 60u);
  EXPECT_LT(widest(drawn_at[100] + kOnItsWay, screen.drawn.size()), 100u);
  EXPECT_GT(widest(drawn_at[100] + kOnItsWay, screen.drawn.size()), 60u);
  EXPECT_EQ(screen.last, "");
  EXPECT_THAT(screen.lines, Contains(AllOf(HasSubstr("16/16 "), HasSubstr("reward "))));
}

/// What is said of Ctrl-C stands above the rows, and no row stays. (A terminal that is sent the
/// character throws away what it has not shown yet, so the signal itself is sent here.)
TEST_F(Terminal, CtrlCLeavesTheTerminalClean) {
  for (const int signals : {1, 2}) {
    int sent = 0;
    const Screen screen = run_on_terminal(
        grpo(200) + Arguments{"--logging_steps", "1", "--overwrite", "true"}, 120, "xterm",
        [&](int, pid_t process, const std::string& bytes) {
          const bool has_begun = bytes.find("sample  reward") != std::string::npos &&
                                 bytes.find("step 3/") != std::string::npos;
          const bool is_heard =
              bytes.find("the run ends when this step is done") != std::string::npos;
          // The second one long enough after the first to be another.
          if ((sent == 0 && has_begun) || (sent == 1 && signals == 2 && is_heard)) {
            ++sent;
            ::kill(process, SIGINT);
          }
        });
    EXPECT_EQ(screen.exit_code, 130) << screen.text();
    EXPECT_THAT(screen.text(), HasSubstr("the run ends when this step is done"));
    EXPECT_THAT(screen.last, "");
    if (signals == 2 && sent == 2) continue;
    EXPECT_THAT(lines_with(screen.lines, "sample "), IsEmpty()) << screen.text();
    EXPECT_THAT(lines_with(screen.lines, "reward "), IsEmpty()) << screen.text();
  }
}

TEST_F(Terminal, QuietShowsNothing) {
  const Screen screen = run_on_terminal(grpo(1) + Arguments{"--quiet"}, 80);
  EXPECT_EQ(screen.exit_code, 0);
  EXPECT_THAT(screen.lines, IsEmpty());
  EXPECT_THAT(screen.drawn, IsEmpty());
}

TEST_F(Terminal, ATerminalThatCannotMoveItsCursorGetsLines) {
  const Screen screen = run_on_terminal(grpo(2), 80, "dumb");
  EXPECT_EQ(screen.exit_code, 0);
  EXPECT_THAT(screen.drawn, IsEmpty());
  EXPECT_THAT(screen.lines, Contains(StartsWith("step 1/2  loss ")));
  EXPECT_THAT(screen.lines, Contains(StartsWith("step 2/2  loss ")));
}

TEST_F(Terminal, AFileGetsOneLineALoggedStepAndNoEscapes) {
  const ProgramResult result = run_program(grpo());
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, Not(AnyOf(HasSubstr("\r"), HasSubstr("\x1b"), HasSubstr("{\""))));
  const auto steps = lines_with(lines_of(result.err), "step ");
  // Others may say how far a slow machine is, an interval after the last line.
  EXPECT_THAT(steps, Contains(StartsWith("step 1/4  loss ")));
  EXPECT_THAT(steps, Contains(StartsWith("step 2/4  loss ")));
  EXPECT_THAT(steps, Contains(StartsWith("step 4/4  loss ")));
  EXPECT_THAT(steps, Not(Contains(StartsWith("step 3/4  loss "))));
}

/// The first step's completion is shown, then one every --log_samples_steps.
TEST_F(Terminal, CompletionsAreShownWithTheirRewards) {
  const auto shown = [&](const Arguments& more) {
    std::vector<std::string> lines;
    const ProgramResult result =
        run_program(grpo() + Arguments{"--per_device_train_batch_size", "8"} + more);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    for (const std::string& line : lines_of(result.err))
      for (const char* start : {"one of the completions", "  rewards:", "  question:", "  answer:"})
        if (line.starts_with(start)) lines.push_back(line);
    return lines;
  };
  const auto lines = shown({"--log_samples_steps", "2"});
  ASSERT_EQ(lines.size(), 12u);
  EXPECT_EQ(lines[0], "one of the completions of step 1:");
  EXPECT_EQ(lines[4], "one of the completions of step 2:");
  EXPECT_EQ(lines[8], "one of the completions of step 4:");
  EXPECT_THAT(lines[1], HasSubstr("(format 0, soft_overlong "));
  EXPECT_THAT(lines[1], HasSubstr(" tokens, "));
  EXPECT_THAT(lines[2], ::testing::MatchesRegex("  question: [0-9]\\+[0-9]="));
  EXPECT_THAT(shown({"--log_samples_steps", "0", "--overwrite", "true"}), IsEmpty());
}

TEST_F(Terminal, OtherCommandsShowHowFarTheyAre) {
  const Arguments model{"--model", path_of("model"), "--dataset", path_of("rows.jsonl")};
  const Screen infer = run_on_terminal(
      Arguments{"infer", "--result_path", (folder_ / "out.jsonl").string(), "--max_new_tokens",
                "200", "--num_return_sequences", "16", "--ignore_eos", "true"} +
          model,
      70);
  EXPECT_EQ(infer.exit_code, 0);
  EXPECT_THAT(infer.drawn, Contains(HasSubstr(" tokens/s")));
  EXPECT_THAT(infer.drawn, Contains(HasSubstr(" left")));
  EXPECT_THAT(lines_with(infer.lines, "infer "), ElementsAre(HasSubstr("256/256 completions")));
  for (const std::string& row : infer.drawn) EXPECT_LT(columns_of(row), 70u) << row;

  const Screen score = run_on_terminal(
      Arguments{"score", "--output", (folder_ / "scores.jsonl").string()} + model, 70);
  EXPECT_EQ(score.exit_code, 0);
  EXPECT_THAT(lines_with(score.lines, "score "), ElementsAre(HasSubstr("16/16 rows")));

  const Screen sft =
      run_on_terminal(Arguments{"sft", "--tuner_type", "full", "--output_dir",
                                (folder_ / "sft").string(), "--per_device_train_batch_size", "16",
                                "--max_steps", "20", "--logging_steps", "20", "--threads", "1"} +
                          model,
                      100);
  EXPECT_EQ(sft.exit_code, 0);
  EXPECT_THAT(sft.drawn, Contains(HasSubstr("training ")));
  EXPECT_THAT(sft.text(), HasSubstr("step 20/20  loss "));
  EXPECT_THAT(sft.text(), HasSubstr("  learning rate "));
}

}  // namespace
}  // namespace lockstep::testing
