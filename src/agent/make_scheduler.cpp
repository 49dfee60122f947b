// SPDX-License-Identifier: Apache-2.0
#include "agent/make_scheduler.h"

#include "agent/environment_scheduler.h"
#include "agent/plugin_scheduler.h"
#include "agent/tool_scheduler.h"
#include "agent/tool_schemas.h"
#include "base/check.h"

namespace lockstep::agent {
namespace {

std::shared_ptr<reward::Failures> make_failures(const AgentOptions& options) {
  return std::make_shared<reward::Failures>(
      reward::FailureWords{.code = "tool-failed",
                           .where = "tools",
                           .what = "a tool or an environment",
                           .consequence = "the model reads an error, or its completion ends",
                           .counted = "further failures are not logged",
                           .things = "failures of tools and environments",
                           .flag = "--tool_max_failures"},
      options.tool_max_failures);
}

/// All tools, as --tools names them.
ToolSetup make_tools(const AgentOptions& options, const SchedulerContext& context) {
  ToolSetup setup;
  std::vector<std::string> functions;
  for (const std::string& text : options.tools) {
    const auto spec = reward::external_spec(text, "--tools");
    if (!spec && text.find(':') == text.npos)
      fail<ConfigError>("bad-tool", "--tools",
                        "expected [NAME=]program:COMMAND, [NAME=]http://…, [NAME=]module:function "
                        "or [NAME=]file.py:function, got {}",
                        text);
    if (!spec) {
      functions.push_back(text);
      // Its name is known when it has been loaded.
      setup.order.emplace_back();
      continue;
    }
    setup.order.push_back(spec->name);
    setup.boxes.push_back(spec->kind == reward::ExternalSpec::Kind::kProgram
                              ? make_program_tool(*spec, options)
                              : make_url_tool(*spec, options));
  }
  if (functions.empty()) return setup;
  setup.boxes.push_back(make_python_tools(functions, options, context.plugins, context.args));
  auto function = setup.boxes.back()->tools().begin();
  for (std::string& name : setup.order)
    if (name.empty()) name = (function++)->name;
  return setup;
}

/// The environment that is a program; null where it is none.
std::unique_ptr<TurnScheduler> make_environment(const AgentOptions& options,
                                                const SchedulerContext& context,
                                                const std::shared_ptr<reward::Failures>& failures) {
  const auto spec = reward::external_spec(options.gym_env, "--gym_env");
  if (!options.has_environment() || !spec) return nullptr;
  if (spec->kind != reward::ExternalSpec::Kind::kProgram)
    fail<ConfigError>("bad-flag", "--gym_env",
                      "expected [NAME=]program:COMMAND or the name of an environment, got {}",
                      options.gym_env);
  if (!options.multi_turn_scheduler.empty() && options.multi_turn_scheduler != "gym_scheduler")
    fail<ConfigError>("bad-flag", "--multi_turn_scheduler",
                      "expected gym_scheduler or none with an environment that is a program, got "
                      "{}",
                      options.multi_turn_scheduler);
  return std::make_unique<EnvironmentScheduler>(
      EnvironmentSetup{.spec = *spec,
                       .is_named = !options.gym_env.starts_with("program:"),
                       .options = options,
                       .tokenizer = &context.encoder->tokenizer(),
                       .failures = failures});
}

}  // namespace

std::unique_ptr<TurnScheduler> make_scheduler(const AgentOptions& options,
                                              const SchedulerContext& context) {
  if (!options.is_on()) return nullptr;
  const auto failures = make_failures(options);
  std::unique_ptr<TurnScheduler> next = make_environment(options, context, failures);
  if (!next && (!options.multi_turn_scheduler.empty() || options.has_environment()))
    next = std::make_unique<PluginScheduler>(options, context, failures);
  if (options.tools.empty()) return next;
  ToolSetup setup = make_tools(options, context);
  if (!options.tool_schemas.empty()) setup.schemas = read_tool_schemas(options.tool_schemas);
  setup.max_response_length = options.max_tool_response_length;
  setup.encoder = context.encoder;
  setup.next = std::move(next);
  setup.failures = failures;
  return std::make_unique<ToolScheduler>(std::move(setup));
}

}  // namespace lockstep::agent
