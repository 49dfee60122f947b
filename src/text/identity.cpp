// SPDX-License-Identifier: Apache-2.0
#include "text/identity.h"

#include <map>

#include "base/file.h"
#include "base/json.h"

namespace lockstep::text {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTemplateKey = "chat_template";

/// tokenizer_config.json; an empty object where there is none.
Json tokenizer_config(const fs::path& model) {
  const fs::path path = model / "tokenizer_config.json";
  if (!fs::exists(path)) return Json::object();
  Json config = parse_json_file(path, "bad-tokenizer");
  return config.is_object() ? config : Json::object();
}

}  // namespace

Digest tokenizer_digest(const fs::path& model) {
  Json config = tokenizer_config(model);
  config.erase(kTemplateKey);
  return digest_of(dump_json(config), digest_of(read_file(model / "tokenizer.json")));
}

Digest template_digest(const fs::path& model) {
  std::map<std::string, std::string> texts;
  if (const fs::path own = model / "chat_template.jinja"; fs::exists(own))
    texts["chat_template.jinja"] = read_file(own);
  if (const fs::path named = model / "additional_chat_templates"; fs::is_directory(named))
    for (const auto& entry : fs::directory_iterator(named))
      if (entry.path().extension() == ".jinja")
        texts["additional/" + entry.path().filename().string()] = read_file(entry.path());
  const Json config = tokenizer_config(model);
  if (config.contains(kTemplateKey)) texts[kTemplateKey] = dump_json(config[kTemplateKey]);
  Digest digest;
  for (const auto& [name, text] : texts) digest = digest_of(text, digest_of(name, digest));
  return digest;
}

}  // namespace lockstep::text
