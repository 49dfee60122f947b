// Flags: options structs on one side, the command line and configuration files on the other.
// A field is declared once, in its struct's for_each_field (base/options.h); parsing, --help and
// args.json visit it.
// SPDX-License-Identifier: Apache-2.0
//
//   GrpoOptions options;
//   FlagSet flags("grpo", "Trains a model with GRPO.");
//   flags.add_group("sampling", options.sampling);
//   flags.add_group("loss", options.loss);
//   flags.require("model");
//   flags.parse(arguments);            // fills the structs
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/json_fwd.h"
#include "base/on_resume.h"
#include "base/options.h"
#include "base/output_path.h"

namespace lockstep::cli {

// See flag_classes.h.
struct FlagClasses;
// One field of a struct with its type erased, see flag_field.h.
class FlagField;

/// A flag and its values as they were written, before the name is looked up.
struct Assignment {
  /// The name without dashes.
  std::string name;
  /// Empty for a flag without values.
  std::vector<std::string> values;
  /// Where it was written: "--beta", or "run.yaml:3: beta".
  std::string where;
  /// It is null in a configuration file, which means the default.
  bool is_null = false;
};

/// How an enum field is read and written: by the index of its name.
struct EnumAccess {
  std::vector<std::string> names;
  /// Unset if the field is unset.
  std::function<std::optional<size_t>()> get;
  std::function<void(std::optional<size_t>)> set;
  bool is_optional = false;
};

/// What a field says of itself, but for its type and its range.
struct FieldDeclaration {
  std::string name, group, help;
  OnResume on_resume;
};

/// The visitor that for_each_field calls when a struct is registered.
class FieldVisitor {
 public:
  explicit FieldVisitor(std::vector<std::unique_ptr<FlagField>>& fields, std::string group)
      : fields_(&fields), group_(std::move(group)) {}

  /// Registers a field; `traits` are any of a Range and an OnResume.
  template <class T, class... Traits>
  void operator()(std::string_view name,
                  T& member,
                  std::string_view help,
                  const Traits&... traits) {
    FieldDeclaration declaration{std::string(name), group_, std::string(help),
                                 on_resume(traits...)};
    if constexpr (std::is_enum_v<T>)
      add(std::move(declaration), access_to(member));
    else if constexpr (requires { requires std::is_enum_v<typename T::value_type>; })
      add(std::move(declaration), access_to_optional(member));
    else
      add(std::move(declaration), member, range_of(traits...));
  }

 private:
  template <class Enum>
  static EnumAccess access_to(Enum& member) {
    EnumAccess access = access_of<Enum>();
    access.get = [&member] { return index_of(member); };
    access.set = [&member](std::optional<size_t> index) {
      if (index) member = enum_names(Enum{})[*index].value;
    };
    return access;
  }
  template <class Enum>
  static EnumAccess access_to_optional(std::optional<Enum>& member) {
    EnumAccess access = access_of<Enum>();
    access.is_optional = true;
    access.get = [&member] { return member ? index_of(*member) : std::nullopt; };
    access.set = [&member](std::optional<size_t> index) {
      member.reset();
      if (index) member = enum_names(Enum{})[*index].value;
    };
    return access;
  }
  template <class Enum>
  static EnumAccess access_of() {
    EnumAccess access;
    for (const EnumName<Enum>& entry : enum_names(Enum{})) access.names.emplace_back(entry.name);
    return access;
  }
  template <class Enum>
  static std::optional<size_t> index_of(Enum value) {
    const std::span<const EnumName<Enum>> names = enum_names(Enum{});
    for (size_t i = 0; i < names.size(); ++i)
      if (names[i].value == value) return i;
    return std::nullopt;
  }
  void add(FieldDeclaration declaration, EnumAccess access);
  /// T is bool, a number, text, a dictionary (Json, given as a JSON object), a list or an optional;
  /// flag_field.cpp says which.
  template <class T>
  void add(FieldDeclaration declaration, T& member, Range range);

  std::vector<std::unique_ptr<FlagField>>* fields_;
  std::string group_;
};

/// What a parse found besides the values.
struct ParseResult {
  /// Whether --help was among the arguments; then nothing else was read.
  bool help = false;
  /// The files that were read: a configuration, and those for DeepSpeed or FSDP.
  std::vector<InputPath> inputs;
  /// One line for each mapped or accepted flag, and for an ignored ENV.
  std::vector<std::string> notices;
  /// Flags of others without effect, see check_declared_family in flag_classes.h.
  std::vector<Assignment> accepted;
};

/// The flags of one command: groups of options structs that it fills in place.
///
/// The structs must outlive it. Not thread-safe.
class FlagSet {
 public:
  /// `summary` is one sentence for --help.
  FlagSet(std::string command, std::string summary);
  ~FlagSet();
  FlagSet(const FlagSet&) = delete;
  FlagSet& operator=(const FlagSet&) = delete;

  /// Registers every field of `options`; their values now are the defaults.
  /// Throws InternalError for a name that is already there.
  template <class Options>
  void add_group(std::string_view group, Options& options) {
    FieldVisitor visitor(fields_, std::string(group));
    options.for_each_field(visitor);
    check_unique();
  }
  /// Makes a flag compulsory, or one of the two. Throws InternalError for an unknown name.
  void require(std::string_view name, std::string_view other = "");
  /// Reads other programs' flags by these tables; `classes` must outlive this.
  void use_classes(const FlagClasses& classes) { classes_ = &classes; }

  /// Reads `[config.yaml|config.json] --flag value …`; a later value wins over an earlier one.
  ///
  /// Throws ConfigError: unknown-flag, bad-flag, missing-flag, refused-flag, bad-config; IoError.
  ParseResult parse(std::span<const std::string> arguments);

  /// Whether the flag was given, under its own name or an alias.
  bool is_set(std::string_view name) const { return !where_of(name).empty(); }
  /// Where the flag's value came from, for errors: "--beta", "run.yaml:3: beta"; "" when it is the
  /// default.
  std::string where_of(std::string_view name) const;
  bool has(std::string_view name) const { return find(name) != nullptr; }

  /// The text of --help: the flags by group, with one line for each.
  std::string help() const;
  /// All options as they are now, in the order of registration, for args.json.
  Json to_json() const;
  /// What another value of each flag means for a run that is resumed, in the same order.
  std::vector<std::pair<std::string, OnResume>> resume_rules() const;
  /// The flags whose value is not the default, as "name=value …", for one log line.
  std::string changed() const;

 private:
  FlagField* find(std::string_view name) const;
  void check_unique() const;
  void assign(const Assignment& assignment);
  [[noreturn]] void fail_unknown(const Assignment& assignment) const;
  /// Reads --learning-rate as --learning_rate, as transformers' parser does. A name that is not
  /// known stays as it was typed.
  void join_words(Assignment& assignment) const;

  std::string command_, summary_;
  std::vector<std::unique_ptr<FlagField>> fields_;
  /// A compulsory flag, and the one that may stand in its place, or "".
  std::vector<std::pair<std::string, std::string>> required_;
  const FlagClasses* classes_ = nullptr;
};

/// The flags and values of a command line, whose names are not looked up. Throws ConfigError
/// "unexpected-argument".
std::vector<Assignment> split_arguments(std::span<const std::string> arguments);

}  // namespace lockstep::cli
