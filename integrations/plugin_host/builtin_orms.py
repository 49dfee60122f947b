# SPDX-License-Identifier: Apache-2.0
"""Rewards of ms-swift that plugins build on, and math_verify itself.

They do what ms-swift 4.6 does (swift/rewards/orm.py). lockstep's own rewards of these names are in
C++; these serve plugins where ms-swift is not installed.
"""

import math
import re


class ORM:
    """What a reward derives from."""

    def __init__(self, args=None, **kwargs):
        self.args = args

    def __call__(self, **kwargs):
        raise NotImplementedError


class AsyncORM:
    """What a reward with an asynchronous call derives from."""

    def __init__(self, args=None, **kwargs):
        self.args = args

    async def __call__(self, **kwargs):
        raise NotImplementedError


class MathAccuracy(ORM):
    """Whether math_verify finds the solution in the completion."""

    def __init__(self, args=None, **kwargs):
        super().__init__(args, **kwargs)
        import math_verify  # noqa: F401  a clear error at the start, where it is missing

    @staticmethod
    def _inner(text):
        found = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
        return (found.group(1).strip(), True) if found else (text, False)

    def __call__(self, completions, solution, **kwargs):
        return [self._judge(text, gold) for text, gold in zip(completions, solution)]

    def _judge(self, text, gold):
        from latex2sympy2_extended import NormalizationConfig
        from math_verify import LatexExtractionConfig, parse, verify
        answer, has_tag = self._inner(text)
        wanted = parse(self._inner(gold)[0], extraction_mode="first_match")
        if not wanted:
            return 0.0
        if has_tag:
            found = parse(answer, extraction_mode="first_match")
        else:
            normalization = NormalizationConfig(nits=False, malformed_operators=False,
                                                basic_latex=True, boxed=True, units=True)
            strict = LatexExtractionConfig(normalization_config=normalization,
                                           boxed_match_priority=0,
                                           try_extract_without_anchor=False)
            found = parse(answer, extraction_config=[strict], extraction_mode="first_match")
        try:
            return float(verify(wanted, found))
        except Exception:
            return 0.0


class Format(ORM):
    pattern = r"^<think>.*?</think>\s*<answer>.*?</answer>(?![\s\S])"

    def __call__(self, completions, **kwargs):
        return [1.0 if re.match(self.pattern, text, re.DOTALL | re.MULTILINE) else 0.0
                for text in completions]


class ReActFormat(Format):
    pattern = r"^<think>.*?</think>\s*Action:.*?Action Input:.*?$"


def _length(ids):
    """How many tokens: a list, or a list for each turn."""
    return sum(map(len, ids)) if ids and isinstance(ids[0], list) else len(ids)


class CosineReward(ORM):

    def __init__(self, args=None, accuracy_orm=None):
        super().__init__(args)
        self.accuracy_orm = accuracy_orm or MathAccuracy()

    def __call__(self, completions, solution, **kwargs):
        right = self.accuracy_orm(completions, solution, **kwargs)
        return [self._value(_length(ids), "correct" if is_right >= 1 else "wrong")
                for ids, is_right in zip(kwargs["response_token_ids"], right)]

    def _value(self, length, kind):
        first = getattr(self.args, f"cosine_min_len_value_{kind}")
        last = getattr(self.args, f"cosine_max_len_value_{kind}")
        angle = length * math.pi / self.args.cosine_max_len
        return first - (first - last) * (1 - math.cos(angle)) / 2


class RepetitionPenalty(ORM):

    def __call__(self, completions, **kwargs):
        return [self._penalty(text) for text in completions]

    def _penalty(self, text):
        size = self.args.repetition_n_grams
        words = text.lower().split()
        if not words or len(words) < size:
            return 0.0
        grams = list(zip(*[words[i:] for i in range(size)]))
        return (1 - len(set(grams)) / len(grams)) * self.args.repetition_max_penalty


class SoftOverlong(ORM):

    def __call__(self, completions, **kwargs):
        cache = self.args.soft_cache_length
        free = self.args.soft_max_length - cache
        return [min(-(_length(ids) - free) / cache, 0) for ids in kwargs["response_token_ids"]]


ORMS = {"accuracy": MathAccuracy, "format": Format, "react_format": ReActFormat,
        "cosine": CosineReward, "repetition": RepetitionPenalty, "soft_overlong": SoftOverlong}
