#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/data/tokenizer/golden.jsonl: texts with the ids that Hugging Face `tokenizers`
gives, and ids with texts.

Three tokenizers of 4,096 tokens from assets/tokenizer_merges.txt, as default_tokenizer_json(4096)
builds it: "qwen3_5" and "qwen3" differ in the split pattern; "flags" is the first plus added tokens
with lstrip, rstrip and normalized. A row is {"text", "words3_5", "words3"?, "qwen3_5", "qwen3"?,
"flags"?}: the words' lengths in bytes, split from the whole text after NFC, and ids; what is left
out equals Qwen3.5's. Or {"ids", "decoded", "skipped"} for decoding, without and with
skip_special_tokens.

Run: python tools/golden/tokenizer.py
"""
import json
import pathlib
import random
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

ROOT = pathlib.Path(__file__).resolve().parents[2]
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|"
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ADDED = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>",
         "<tool_response>"]
ADDED += ["</tool_response>", "<think>", "</think>"]
VOCAB_SIZE = 4096
FLAG_TOKENS = [
    AddedToken("<left>", lstrip=True, normalized=False),
    AddedToken("<right>", rstrip=True, normalized=False),
    AddedToken("<both>", lstrip=True, rstrip=True, normalized=False, special=True),
    AddedToken("<the\u0301>", normalized=True),
    AddedToken("<thé><", normalized=True),
    AddedToken("é\u00e8", normalized=False),
]


def byte_chars():
    printable = [b for b in range(256) if 0x21 <= b <= 0x7E or (b >= 0xA1 and b != 0xAD)]
    hidden = iter(range(0x100, 0x200))
    return [chr(b) if b in printable else chr(next(hidden)) for b in range(256)]


def build(pattern, extra=()):
    merges = (ROOT / "assets/tokenizer_merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [tuple(m.split(" ")) for m in merges[: VOCAB_SIZE - 256 - len(ADDED)]]
    vocab = {c: i for i, c in enumerate(byte_chars())}
    for left, right in merges:
        vocab[left + right] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(t, normalized=False, special=True) for t in ADDED[:3]]
    plain = [AddedToken(t, normalized=False, special=False) for t in ADDED[3:]]
    # One call each, so that the ids are in this order.
    for token in special + plain + list(extra):
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    return tokenizer


def word_sizes(pattern, text):
    """Bytes of each word of the normalised text: ids alone would hide most differences of the
    patterns.
    """
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    normalized = normalizers.NFC().normalize_str(text)
    return [len(word.encode()) for word, _ in split.pre_tokenize_str(normalized)]


def sources(rng):
    rows = [json.loads(line)
            for line in open(ROOT / "tests/data/gsm8k/test_200.jsonl", encoding="utf-8")]
    words = [w for r in rows for w in (r["question"] + " " + r["answer"]).split(" ")]
    own = (ROOT / "tools/golden/sample_text.txt").read_text(encoding="utf-8")
    assigned = [c for c in range(0x110000)
                if unicodedata.category(chr(c)) not in ("Cs", "Cn", "Co")]
    marks = [c for c in assigned if unicodedata.category(chr(c))[0] == "M"]
    common = [c for c in marks if unicodedata.combining(chr(c)) and c < 0x2000]
    spaces = " \t\n\r\x0b\x0c\x85\u00a0\u1680\u2003\u2028\u2029\u202f\u3000\u200b\ufeff\u180e"
    contractions = ["'s", "'S", "'t", "'T", "'re", "'rE", "'VE", "'m", "'LL", "'lL", "'d", "'D",
                    "'ſ", "'x", "'", "’s"]
    hangul = ["\u1112\u1161\u11ab", "\uac00\u11a8", "한국", "\u1100\u1161"]
    composing = ["A\u030a", "\u212b", "e\u0323\u0302", "q\u0307\u0323", "\u0958", "\u09c7\u09be",
                 "か\u3099", "\u2126"]

    def pick(pool, low, high):
        return "".join(rng.choice(pool) for _ in range(rng.randint(low, high)))

    return [
        lambda: " ".join(rng.choice(words) for _ in range(rng.randint(1, 6))),
        lambda: (lambda i: own[i : i + rng.randint(1, 30)])(rng.randrange(len(own))),
        lambda: "".join(chr(rng.choice(assigned)) for _ in range(rng.randint(1, 4))),
        lambda: rng.choice("aeoAnक한")
        + "".join(chr(rng.choice(common)) for _ in range(rng.randint(1, 3))),
        lambda: chr(rng.choice(marks)),
        lambda: pick(spaces, 1, 4),
        lambda: pick(" ", 1, 5),
        lambda: pick("\r\n \t", 1, 5),
        lambda: rng.choice("aIxé ") + rng.choice(contractions)
        + rng.choice(["", "a", "e", " ", "l"]),
        lambda: pick("0123456789", 1, 6),
        lambda: pick("²½٣四Ⅷ①੩", 1, 3),
        lambda: pick("🙂👍🏽👩‍💻🇫🇷❤️", 1, 4),
        lambda: pick("你好世界今天天气很好。，", 1, 6),
        lambda: pick(".,;:!?-+*/=()[]{}<>|#@$%^&_~`\"'\\", 1, 5),
        lambda: rng.choice(ADDED),
        lambda: rng.choice(ADDED)[: rng.randint(1, 12)],
        lambda: pick(hangul, 1, 2),
        lambda: pick(composing, 1, 2),
        lambda: rng.choice(["\x00", "\x1f", "\x7f", "\x80", "\xad", "\u0378", "\ue000", "\ufffd",
                            "\uffff", "\U0010ffff"]),
    ]


def texts(rng):
    pieces = sources(rng)
    for _ in range(2200):
        yield "".join(rng.choice(pieces)() for _ in range(rng.randint(1, 8)))
    for first in (" ", "  ", "\n", " \n", "\n ", "\t", "\u3000", "\r\n\r\n", "\u0301", "'", "' ",
                  " '", "'s"):
        for last in ("", " ", "  ", "\n", " \n ", "x", " x", "1", " 1", "!", " !", "\u0301",
                     " \u0301"):
            yield first + last
            yield "a" + first + last
    for size in (23, 24, 25, 47, 48, 49, 50, 200,
                 1000):  # around the borders of the word cache and the short merge
        yield "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(size))
        yield "".join(rng.choice("theando") for _ in range(size))
        yield "=" * size
        yield " " * size


def flag_texts(rng):
    pieces = ["<left>", "<right>", "<both>", "<the\u0301>", "<thé>", "<thé><", "<th\u00e9><\u0301",
              "éè", "e\u0301è"]
    pieces += [" ", "  ", "\n", "\u3000", "a", "é", "<", "1", "<|im_end|>", " the"]
    for _ in range(300):
        yield "".join(rng.choice(pieces) for _ in range(rng.randint(1, 8)))


def main():
    rng = random.Random(20260801)
    qwen3_5, qwen3, flags = build(QWEN35), build(QWEN3), build(QWEN35, FLAG_TOKENS)
    assert qwen3_5.get_vocab_size() == VOCAB_SIZE
    lines = []
    for text in texts(rng):
        row = {"text": text, "words3_5": word_sizes(QWEN35, text),
               "qwen3_5": qwen3_5.encode(text).ids}
        for name, value in (("words3", word_sizes(QWEN3, text)), ("qwen3", qwen3.encode(text).ids)):
            if value != row[name + "_5"]:
                row[name] = value
        lines.append(row)
    for text in flag_texts(rng):
        lines.append({"text": text, "qwen3_5": qwen3_5.encode(text).ids,
                      "flags": flags.encode(text).ids})
    for _ in range(400):
        upper = rng.choice([256, 256, VOCAB_SIZE, VOCAB_SIZE + len(FLAG_TOKENS)])
        ids = [rng.randrange(rng.choice([0, 128, 190]) if upper == 256 else 0, upper)
               for _ in range(rng.randint(1, 12))]
        lines.append({"ids": ids, "decoded": flags.decode(ids, skip_special_tokens=False)})
        lines[-1]["skipped"] = flags.decode(ids, skip_special_tokens=True)
    output = ROOT / "tests/data/tokenizer/golden.jsonl"
    with open(output, "w", encoding="utf-8") as file:
        for row in lines:
            file.write(json.dumps(row, separators=(",", ":")) + "\n")
    print(len(lines), "rows,", sum("words3" in r for r in lines), "where the patterns differ,",
          output.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
