#!/usr/bin/env python3
"""What transformers trains on in conversations, for tests/text/dialogue_test.cpp.

Copies TRL's training templates, which mark the assistant's words with {% generation %}, to
tests/data/chat_templates/training and writes assistant_masks.jsonl beside them: for each template
and conversation of chat_template.py that has an assistant's turn the texts under
return_assistant_tokens_mask, and how many ids there are and are trained on.

SPDX-License-Identifier: Apache-2.0
"""

import json
import pathlib
import shutil

import chat_template
import transformers
import trl

ROOT = pathlib.Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "chat_templates" / "training"
TEMPLATES = ["qwen3_training", "qwen3_5_think_training", "qwen3_5_nothink_training",
             "qwen3_6_training", "qwen3_8_training",
             "qwen3_instruct_2507_training", "qwen2_5_training"]


def trained_texts(tokenizer, source, messages, tools):
    """The texts under {% generation %}, as transformers finds them."""
    chat = [{k: v for k, v in message.items() if v is not None} for message in messages]
    rendered, spans = transformers.utils.chat_template_utils.render_jinja_template(
        conversations=[chat], tools=tools, chat_template=source, return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map
    )
    return [rendered[0][begin:end] for begin, end in spans[0]]


def main():
    DATA.mkdir(exist_ok=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        ROOT / "tests" / "golden" / "checkpoints" / "qwen3_tied")
    rows = []
    for name in TEMPLATES:
        file = pathlib.Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja"
        shutil.copy(file, DATA)
        source = file.read_text(encoding="utf-8")
        for conversation, (messages, tools) in chat_template.conversations().items():
            if not any(message.get("role") == "assistant" for message in messages):
                continue
            # Arguments as a string of JSON: the program gives a template that cannot write them the
            # object.
            if conversation in ("tool_call_string", "tool_call_empty_string"):
                continue
            try:
                out = tokenizer.apply_chat_template(
                    messages, tools=tools, chat_template=source, return_dict=True,
                    return_assistant_tokens_mask=True
                )
                trained = trained_texts(tokenizer, source, messages, tools)
            # The template refuses the conversation: expected.jsonl has such cases.
            except Exception:
                continue
            rows.append({"template": f"{name}.jinja", "conversation": conversation,
                         "trained": trained,
                         "num_trained": sum(out["assistant_masks"]),
                         "num_ids": len(out["input_ids"])})
    chat_template.write(DATA / "assistant_masks.jsonl", rows)
    print(f"{len(rows)} rows of {len(TEMPLATES)} templates")


if __name__ == "__main__":
    main()
