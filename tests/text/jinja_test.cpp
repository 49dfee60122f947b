// The Jinja interpreter against jinja2 on small templates, and its limits and errors.
// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <filesystem>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/json.h"
#include "tests/support/expect_error.h"
#include "tests/support/json_lines.h"
#include "tests/support/source_dir.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/parser.h"
#include "text/jinja/string.h"

namespace lockstep::text::jinja {
namespace {

const std::filesystem::path kSnippets =
    testing::source_dir() / "tests" / "data" / "chat_templates" / "snippets.jsonl";

std::string run(std::string_view source, const Json& variables = Json::object()) {
  return render(parse_template(source), from_json(variables)).text;
}

/// The error of a template: "code line: message", or "" if there is none.
std::string error_of(std::string_view source, const Json& variables = Json::object()) {
  try {
    run(source, variables);
  } catch (const JinjaError& error) {
    return fmt::format("{} {}: {}", error.code, error.line, error.message);
  }
  return "";
}

TEST(Jinja, EqualsJinja2OnSnippets) {
  Json variables;
  int64_t count = 0;
  for_each_json_line(kSnippets, [&](int64_t line, Json&& row) {
    if (line == 1) {
      variables = row.at("variables");
      return;
    }
    ++count;
    const std::string source = row.at("source");
    SCOPED_TRACE(fmt::format("line {}: {}", line, source));
    try {
      const std::string text = run(source, variables);
      if (row.contains("text")) {
        EXPECT_EQ(text, row.at("text").get<std::string>());
      } else {
        ADD_FAILURE() << "expected " << row.at("error") << ", got " << text;
      }
    } catch (const JinjaError& error) {
      EXPECT_FALSE(row.contains("text")) << error.message;
      // What jinja2 refuses to compile is a bad template, never a bad row.
      const bool is_syntax = row.value("error", "") == "TemplateSyntaxError" ||
                             row.value("error", "") == "TemplateAssertionError";
      EXPECT_TRUE(!is_syntax || error.code == "bad-template") << error.message;
    }
  });
  EXPECT_GE(count, 700);
}

TEST(Jinja, NamesLineAndConstructOfWhatItDoesNotKnow) {
  EXPECT_EQ(error_of("a\nb\n{% include 'x' %}"),
            "bad-template 3: expected a statement of chat templates, got {% include %}");
  EXPECT_EQ(error_of("\n{{ 1 | nofilter }}"),
            "bad-template 2: expected a filter of chat templates, got nofilter");
  EXPECT_EQ(error_of("{{ 1 }}\n{{ 1 is notest }}"),
            "bad-template 2: expected a test of chat templates, got notest");
  EXPECT_EQ(error_of("{{ 'x'.encode() }}"),
            "bad-template 1: expected a method of str that chat templates use, got encode");
  EXPECT_EQ(error_of("{{ lipsum() }}"),
            "bad-template 1: expected a function of chat templates, got lipsum");
  EXPECT_THAT(error_of("{% for x in [1] recursive %}{% endfor %}"),
              ::testing::StartsWith("bad-template 1: expected a loop without recursion"));
  EXPECT_THAT(error_of("{{ '\\N{DASH}' }}"), ::testing::HasSubstr("escapes with digits"));
}

TEST(Jinja, NamesTheLineOfAValueThatItRefuses) {
  EXPECT_EQ(error_of("a\n\n{{ missing.name }}"), "bad-row 3: 'missing' is undefined");
  EXPECT_EQ(error_of("{{ m.x.y }}", {{"m", {{"a", 1}}}}),
            "bad-row 1: 'dict object' has no attribute 'x'");
  EXPECT_EQ(error_of("\n{{ 'a' + none }}"),
            "bad-row 2: expected operands of +, got 'str' and 'NoneType'");
  EXPECT_EQ(error_of("{% if true %}\n\n{{ raise_exception('Own words.') }}{% endif %}"),
            "bad-row 3: Own words.");
}

TEST(Jinja, KeepsIntegersOf64BitsAndTheFormOfFloats) {
  EXPECT_EQ(run("{{ a }} {{ b|tojson }} {{ c }} {{ d }}",
                parse_json(R"({"a": -9223372036854775808, "b": 18446744073709551615, "c": 1.0,
                               "d": 1e22})",
                           "test")),
            "-9223372036854775808 18446744073709551615 1.0 1e+22");
}

// A hostile template ends with an error, whatever it asks for; each of these would otherwise fill
// the memory, run for hours or overflow the stack.
TEST(Jinja, EndsHostileTemplates) {
  const std::string deep_brackets = "{{ " + std::string(100'000, '(') + "1";
  const std::string deep_list = "{{ " + std::string(100'000, '[') + "1";
  std::string deep_nots = "{{ ", deep_ifs, long_sum = "{{ 1", long_path = "{{ a",
              long_pipe = "{{ a";
  for (int i = 0; i < 100'000; ++i) {
    deep_nots += "not ";
    deep_ifs += "{% if 1 %}";
    long_sum += " + 1";
    long_path += ".a";
    long_pipe += "|trim";
  }
  const std::string hostile[] = {
      deep_brackets,
      deep_list,
      deep_nots + "1 }}",
      deep_ifs,
      long_sum + " }}",
      long_path + " }}",
      long_pipe + " }}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
      "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% "
      "endfor %}",
      "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% "
      "endfor %}",
      "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}",
      "{% set ns = namespace(x=1) %}{% for i in range(9999) %}{% set ns.x = {'a': ns.x} %}{% "
      "endfor %}",
      "{% set ns = namespace(x=[]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% "
      "endfor %}{{ ns.x }}",
      "{% set ns = namespace(x=[]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% "
      "endfor %}{{ ns.x|tojson }}",
      "{% set a = namespace(x=[]) %}{% set b = namespace(x=[]) %}{% for i in range(99) %}{% set "
      "a.x = [a.x, a.x] %}"
      "{% set b.x = [b.x, b.x] %}{% endfor %}{{ a.x == b.x }}",
      "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}",
      "{{ 'a' * 10000000000 }}",
      "{{ [1] * 100000000000000000000000000 }}",
      "{{ ''.center(10000000000) }}",
      "{{ '%1000000000d' % 1 }}",
      "{{ 'a'|indent(10000000000) }}",
      "{{ [1]|tojson(indent=10000000000) }}",
      "{{ 10 ** 10000 }}",
      "{{ 2 ** 126 * 4 }}",
      "{{ ('a' * 1000000).replace('', 'b' * 100000) }}",
      "{{ range(1000000000) }}",
  };
  for (const std::string& source : hostile) {
    EXPECT_NE(error_of(source), "") << source.substr(0, 200);
  }
}

TEST(Jinja, AcceptsNestingOfRealTemplates) {
  std::string source;
  for (int i = 0; i < 50; ++i) source += "{% if true %}";
  source += "{{ ((((((((((1)))))))))) }}";
  for (int i = 0; i < 50; ++i) source += "{% endif %}";
  EXPECT_EQ(run(source), "1");
  Json nested = 1;
  for (int i = 0; i < 200; ++i) nested = Json::array({nested});
  EXPECT_EQ(run("{{ x|tojson }}", {{"x", nested}}),
            std::string(200, '[') + "1" + std::string(200, ']'));
}

TEST(Jinja, RendersOneTreeFromSeveralThreads) {
  const Template source = parse_template(
      "{% macro m(x) %}<{{ x }}>{% endmacro %}{% for x in xs %}{{ m(x) }}{% endfor %}");
  const Value variables = from_json({{"xs", {1, 2, 3}}});
  std::atomic<int> num_wrong{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int repeat = 0; repeat < 200; ++repeat) {
        if (render(source, variables).text != "<1><2><3>") ++num_wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_wrong, 0);
}

TEST(JinjaString, CountsCodePoints) {
  EXPECT_EQ(count_code_points("a🙂é日"), 4);
  EXPECT_EQ(byte_offset("a🙂é日", 2), 5u);
  EXPECT_EQ(byte_offset("a🙂é日", 9), 10u);
  EXPECT_EQ(encode_utf8(decode_utf8("a🙂é日")), "a🙂é日");
}

}  // namespace
}  // namespace lockstep::text::jinja
