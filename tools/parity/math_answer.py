#!/usr/bin/env python3
"""Judges answers with math_verify as ms-swift's MathAccuracy does, for tests/reward/math_answer_test.cpp.

Writes tests/data/reward/math_answers.jsonl: {"solution", "completion", "score"}. math_verify 0.9, latex2sympy2_extended
1.11, sympy 1.14. Where our comparison is known to differ the row also holds "ours" and says why in "note": KNOWN below.

With --random COUNT --out FILE pairs of all answers are judged instead, for a one-off comparison that is not committed:
LOCKSTEP_MATH_ANSWERS=FILE build/…/lockstep_reward_test.

SPDX-License-Identifier: Apache-2.0
"""

import argparse
import json
import logging
import pathlib
import random
import re
import warnings

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify

OUT = pathlib.Path(__file__).parents[2] / "tests" / "data" / "reward" / "math_answers.jsonl"

STRICT = [
    LatexExtractionConfig(
        normalization_config=NormalizationConfig(
            nits=False, malformed_operators=False, basic_latex=True, equations=True, boxed=True, units=True
        ),
        boxed_match_priority=0,
        try_extract_without_anchor=False,
    )
]


def score(completion, solution):
    """ms-swift 4.6, swift/rewards/orm.py, MathAccuracy."""
    content = re.search(r"<answer>(.*?)</answer>", completion, re.DOTALL)
    gold = re.search(r"<answer>(.*?)</answer>", solution, re.DOTALL)
    # Without timeouts: a busy machine must not change a score.
    gold_parsed = parse(gold.group(1).strip() if gold else solution, extraction_mode="first_match", parsing_timeout=None)
    if not gold_parsed:
        return 0.0
    if content:
        answer_parsed = parse(content.group(1).strip(), extraction_mode="first_match", parsing_timeout=None)
    else:
        answer_parsed = parse(
            completion, extraction_config=STRICT, extraction_mode="first_match", parsing_timeout=None
        )
    try:
        return float(verify(gold_parsed, answer_parsed, timeout_seconds=None))
    except Exception:
        return 0.0


# Values in several writings: every pair of writings is judged, within a group and across.
WRITINGS = {
    "numbers": [
        ["42", "$42$", "42.0", "$42.00$", "$+42$", "042", "$\\frac{84}{2}$", "84/2", "$6 \\times 7$", "$42\\%$", "$42\\text{ apples}$", "42 apples", "$\\$42$", "$\\boxed{42}$", "$x = 42$", "x = 42"],
        ["-42", "$-42$", "$-42.0$"],
        ["43", "$43$", "$42.000001$", "$42.0000001$"],
    ],
    "fractions": [
        ["1/2", "0.5", "$0.5$", "$\\frac{1}{2}$", "$\\frac12$", "$\\dfrac{1}{2}$", "$1/2$", "50%", "$50\\%$", ".5", "$.5$", "$\\frac{2}{4}$", "$2^{-1}$", "$\\frac{1}{2}$ cups", "2/4", "$0.500$", "\\frac{1}{2}"],
        ["$\\frac{1}{3}$", "$0.333333$", "$0.3333333333$", "$0.3333$", "1/3", "33.3333%"],
        ["$1\\frac{1}{2}$", "$\\frac{3}{2}$", "1.5", "$1 \\frac12$", "150%"],
        ["$-\\frac{1}{2}$", "$\\frac{-1}{2}$", "-0.5", "$-1/2$", "-1/2"],
    ],
    "large": [
        ["1234567", "1,234,567", "$1,234,567$", "1 234 567", "$1{,}234{,}567$", "$1.234567 \\times 10^6$", "$1234567.0$", "1234567.00"],
        ["$10^{30}$", "1000000000000000000000000000000", "$1000000000000000000000000000000$", "$10^{29} \\cdot 10$"],
        ["$10^{30}+1$", "1000000000000000000000000000001"],
        ["123456789012345678901234567890123456789012345", "$123456789012345678901234567890123456789012345$"],
        ["$123456789012345678901234567890123456789012346$"],
    ],
    "formulas": [
        ["$2\\sqrt{3}$", "$\\sqrt{12}$", "$\\sqrt{4\\cdot 3}$", "$2 \\cdot 3^{1/2}$", "$\\frac{6}{\\sqrt{3}}$", "$3.464102$", "$3.4641016151$"],
        ["$x^2+2x+1$", "$(x+1)^2$", "$1+2x+x^2$", "$(1+x)(x+1)$", "$x(x+2)+1$"],
        ["$\\frac{x+1}{x-1}$", "$\\frac{-x-1}{1-x}$", "$(x+1)/(x-1)$"],
        ["$2\\pi$", "$\\pi \\cdot 2$", "$\\frac{4\\pi}{2}$", "$6.283185$", "$6.283185307$"],
        ["$\\frac{\\sqrt{2}}{2}$", "$\\frac{1}{\\sqrt{2}}$", "$\\sqrt{\\frac{1}{2}}$", "$2^{-1/2}$"],
        ["$5!$", "120", "$\\binom{6}{3} \\cdot 6$", "$|{-120}|$"],
        ["$\\log_2 8$", "$3$", "$\\sqrt[3]{27}$", "$\\lfloor 3.7 \\rfloor$", "$\\sqrt{9}$"],
        ["$e^x$", "$e^{x}$", "$\\exp(x)$"],
        ["$\\sin(x)$", "$\\sin x$"],
        ["$a+b$", "$b+a$"],
        ["$\\infty$", "$+\\infty$"],
        ["$-\\infty$"],
    ],
    "sets": [
        ["$(1,2)$", "$(1, 2)$", "$\\left(1,2\\right)$", "$(\\frac{2}{2}, 2.0)$"],
        ["$(2,1)$"],
        ["$1,2$", "$2, 1$", "$\\{1,2\\}$", "$1$ and $2$", "$1\\text{ and }2$", "$2$, $1$"],
        ["$[1,2]$"],
        ["$[1,2)$"],
        ["$(1,2,3)$", "$(1, 2, 6/2)$"],
        ["$1,2,3$", "$\\{3,2,1\\}$", "$1$, $2$, and $3$"],
        ["$(-\\infty, 3]$", "$x \\le 3$", "$x \\leq 3$", "$3 \\geq x$"],
        ["$[0,1]\\cup[2,3]$", "$[2,3] \\cup [0,1]$"],
        ["$\\pm 2$", "$-2, 2$", "$x = \\pm 2$", "$\\{2, -2\\}$"],
        ["$\\begin{pmatrix}1\\\\2\\end{pmatrix}$", "$\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}$"],
    ],
    "equations": [
        ["$x=5$", "$x = 5$", "$5$", "5", "$x=y=5$", "$5.0$"],
        ["$y=5$"],
        ["$y=2x+1$", "$y = 1 + 2x$", "$2x - y = -1$"],
        ["$x > 5$", "$5 < x$", "$(5, \\infty)$"],
        ["$1 < x < 2$", "$2 > x > 1$"],
        ["$x=1, y=2$", "$y=2, x=1$"],
        ["$x=1,2$", "$x=1$ or $x=2$"],
    ],
    "words": [
        ["$\\text{Evelyn}$", "$\\text{evelyn}$", "$\\text{ Evelyn }$", "$\\textbf{Evelyn}$", "$\\mathrm{Evelyn}$"],
        ["$\\text{yes}$", "$\\text{Yes}$"],
        ["$\\text{no}$", "no"],
        ["$\\text{(A)}$", "$A$", "$(A)$", "$\\text{A}$", "$\\mathbf{A}$"],
        ["$\\text{B}$", "$B$"],
        ["$\\text{No solution}$", "$\\text{no solution}$"],
        ["$ab$", "$\\text{ab}$", "$ba$"],
        ["$x_1$", "$x_{1}$"],
        ["$\\alpha$"],
    ],
    "units": [
        ["$5\\text{ cm}$", "$5 \\text{ cm}$", "$5\\,\\text{cm}$", "5 cm", "$5$ cm", "$5 \\mathrm{cm}$", "$5\\text{ cm}^2$", "$5$"],
        ["$90^\\circ$", "$90^{\\circ}$", "90", "$90\\text{ degrees}$", "90 degrees", "$90$ degrees"],
        ["$\\$1,250.75$", "$1250.75$", "$1,250.75", "1250.75 dollars", "$1250.75\\text{ dollars}$"],
        ["$15\\%$", "15%", "15 percent", "$15\\text{ percent}$", "15", "$0.15$"],
        ["$3:4$", "$\\frac{3}{4}$", "$0.75$"],
    ],
}

# How an answer may stand in a completion. {} is LaTeX without dollar signs.
FRAMES = [
    "{}",
    "${}$",
    "\\boxed{{{}}}",
    "$\\boxed{{{}}}$",
    "\\[ \\boxed{{{}}} \\]",
    "$$\\boxed{{{}}}$$",
    "So the result is \\boxed{{{}}}.",
    "So $x = \\boxed{{{}}}$.",
    "The answer is ${}$.",
    "The answer is {}.",
    "**Answer:** ${}$",
    "Answer: {}",
    "The final answer is ${}$. I hope it is correct.",
    "The final answer is: $\\boxed{{{}}}$.",
    "final answer: \\({}\\)",
    "We get ${}$, hence done.",
    "First \\boxed{{7}}, then we look at it for a long while and many more words and find \\boxed{{{}}}",
    "\\boxed{{{}}} and then we look at it again, we see {{brackets}} and so on",
    "\\boxed{{{}}}\n\nAnswer: $7$",
    "Answer: $7$\n\n\\boxed{{{}}}",
    "<answer>{}</answer>",
    "<answer>${}$</answer>",
    "<answer> \\boxed{{{}}} </answer>",
    "<think>\\boxed{{7}}</think><answer>The answer is {}.</answer>",
    "<answer>7</answer><answer>{}</answer>",
    "<answer>{}",
    "x <answer>\nSo we have ${}$ and ${}$\n</answer>",
    "\\fbox{{{}}}",
    "\\boxed{{{}",
    "\\boxed {{{}}}",
    "answer ${}$ and answer $7$",
    "The answer is \\boxed{{{}}}\\%",
    "The answer is $\\boxed{{{}}}$%",
    "The answer is $x = y = {}$",
    "\\[ \\text{{answer: }} {} \\]",
]
FRAMED = [("18", "18"), ("\\frac{3}{4}", "0.75"), ("\\frac{3}{4}", "\\frac{3}{4}"), ("\\frac{3}{4}", "\\frac34"), ("x+1", "1+x"), ("(1,2)", "(1, 2)"), ("\\text{yes}", "\\text{Yes}"), ("1,234", "1234"), ("5", "\\$5"), ("10", "10\\%")]

# Solutions as data sets write them (GSM8K, MATH), with right and wrong completions.
DATASETS = [
    ("Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.\n#### 72", ["\\boxed{72}", "The answer is \\boxed{72}.", "\\boxed{24}", "72", "<answer>72</answer>", "<answer>48+24 = 72</answer>", "<answer>The total is 72 clips.</answer>", "<answer>72.5</answer>", ""]),
    ("#### 1,450", ["\\boxed{1450}", "\\boxed{1,450}", "\\boxed{1450.00}", "\\boxed{\\$1,450}", "<answer>$1,450</answer>", "<answer>1 450</answer>", "\\boxed{145}"]),
    ("We have $x^2=4$ so the answer is $\\boxed{2}$.", ["\\boxed{2}", "$\\boxed{x=2}$", "\\boxed{-2}", "\\boxed{\\pm 2}", "<answer>2</answer>"]),
    ("Thus, $p - q = \\boxed{\\frac{9}{5}}.$", ["\\boxed{1.8}", "\\boxed{\\frac{9}{5}}", "\\boxed{9/5}", "\\boxed{1\\frac{4}{5}}", "\\boxed{\\frac95}", "<answer>\\frac95</answer>", "<answer>$\\frac95$</answer>", "<answer>9/5</answer>"]),
    ("<answer> 12 </answer>", ["<answer>12</answer>", "\\boxed{12}", "<answer>12.</answer>", "<answer>twelve</answer>"]),
    ("no number here", ["\\boxed{1}", "no number here", "<answer>no number here</answer>"]),
    ("", ["\\boxed{1}", ""]),
    ("yes", ["\\boxed{\\text{yes}}", "yes"]),
    ("$\\text{yes}$", ["\\boxed{\\text{yes}}", "\\boxed{yes}", "<answer>yes</answer>", "<answer>$\\text{Yes}$</answer>"]),
    ("12:30", ["\\boxed{12:30}", "<answer>12:30</answer>", "\\boxed{30}"]),
    ("-3", ["\\boxed{-3}", "\\boxed{3}", "<answer>-3</answer>", "<answer>- 3</answer>", "\\boxed{−3}"]),
    ("$0$", ["\\boxed{0}", "\\boxed{-0}", "\\boxed{0.0}", "\\boxed{}", "\\boxed{0.0000001}"]),
    ("$3.14$", ["\\boxed{3.14}", "\\boxed{\\pi}", "\\boxed{\\frac{157}{50}}", "\\boxed{3.1400001}", "\\boxed{3.141}"]),
    ("$\\pi$", ["\\boxed{3.14}", "\\boxed{3.141593}", "\\boxed{\\pi}", "\\boxed{180^\\circ}"]),
    ("$100$", ["\\boxed{10^2}", "\\boxed{1e2}", "\\boxed{1\\times 10^2}", "\\boxed{100.}", "\\boxed{100\\%}", "\\boxed{100\\text{ m}}", "\\boxed{100 m}", "\\boxed{100 \\text{ dollars}}", "\\boxed{\\text{100}}", "\\boxed{one hundred}"]),
    ("$\\frac{1}{0}$", ["\\boxed{\\frac{1}{0}}", "\\boxed{0}"]),
    ("$x=\\frac{-b\\pm\\sqrt{b^2-4ac}}{2a}$", ["\\boxed{\\frac{-b\\pm\\sqrt{b^2-4ac}}{2a}}", "\\boxed{x=\\frac{-b \\pm \\sqrt{b^2-4ac}}{2a}}"]),
    ("$0.\\overline{3}$", ["\\boxed{0.\\overline{3}}", "\\boxed{\\frac{1}{3}}"]),
    ("2^10", ["\\boxed{1024}", "\\boxed{2^{10}}", "<answer>1024</answer>", "<answer>2**10</answer>"]),
    ("3*(4+5)", ["\\boxed{27}", "<answer>3*(4+5)</answer>", "<answer>27</answer>", "<answer>(3)(9)</answer>"]),
    ("7/8 of the cake", ["\\boxed{\\frac{7}{8}}", "\\boxed{0.875}", "<answer>7/8</answer>", "\\boxed{7/8}"]),
    ("$\\frac{7}{8}$ or $1$", ["\\boxed{\\frac{7}{8}}", "\\boxed{1, \\frac{7}{8}}"]),
]


# Answers as they stand in MATH and the like: each against itself in a box, in a tag, and against the next one.
SINGLES = r"""
\frac{43}{2} ; 2k+2 ; p - q ; (3, \frac{\pi}{2}) ; \left( 3, \frac{\pi}{2} \right) ; 6 - 5i ; 4 - 3i ; \sqrt{51} ; 3\sqrt{13} ; 10\sqrt{2}+3
x^3 + 3x - 6 ; -2 + 7i ; \text{east} ; \text{Saturday} ; 6+9i ; (6,31,-1) ; 203 ; 1,-2 ; \frac{1}{8} ; .35625 ; 8\sqrt{2} ; 70 \sqrt{2} ; \$32,\!348 ; 32,348
\left(-\frac{3}{2}, \infty\right) ; [-2,7] ; (-\infty, 0) \cup (0, \infty) ; \{1, 2, 3\} ; x \in [-2,7] ; -1 \le x < 3 ; [0, \infty) ; \emptyset ; \mathbb{R}
\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix} ; \begin{pmatrix} 0 & 3 \\ -1 & 2 \end{pmatrix} ; \begin{pmatrix} 0 & 3 \\ -1 & 3 \end{pmatrix} ; \begin{bmatrix} 1 & 2 \end{bmatrix}
5.4 \text{ cents} ; 18^{\circ} ; 60^\circ ; 12\text{ square units} ; 36\pi ; \frac{9}{7} \pi ; 864 \mbox{ inches}^2 ; 15\mbox{ cm}^2 ; 1.25 \times 10^{-4} ; 0.000125 ; 11\% ; \frac{3}{56}
\frac{270}7\text{ degrees} ; \sqrt[3]{4} ; 2^{2/3} ; 2^{x+1} ; 2 \cdot 2^x ; \log_3 9 ; \ln 2 ; \log 100 ; \tan 45 ; \sin^2 x + \cos^2 x ; 1 - \cos^2 x ; \sin^2 x ; \cos 2x
y = \frac{1}{2} x - 3 ; y = 0.5x - 3 ; 2y = x - 6 ; x + y = 7 ; x^2 + y^2 = 25 ; x = 3, y = 4 ; (3,4) ; 3,4 ; n = 5 ; f(x) = x^2 ; x^2 ; a_n = 2n ; 2n ; x \ge 2 ; x < -1
\frac{a^2 b}{c} ; a^2bc^{-1} ; \frac{x-1}{x+2} ; 1 - \frac{3}{x+2} ; (x-2)(x+3) ; x^2+x-6 ; (x+3)(x-2) ; -x^2-x+6 ; 9x^2-4 ; (3x-2)(3x+2) ; x^{10} ; x^{11} ; abc ; cba ; a b c
\text{(B)} ; \text{B} ; B ; \textbf{(B)}\ 5 ; \text{A, C} ; A, C ; \text{True} ; \text{odd} ; \text{Navin} ; \text{6 hours} ; \text{ellipse} ; 2:15 ; 7{,}5 ; 7,5 ; 7.5
1\frac{3}{4} ; 1.75 ; \frac{7}{4} ; 7/4 ; \tfrac{7}{4} ; 175\% ; 13\frac{1}{3} ; 1 \frac{1}{2} ; -2\frac{1}{2} ; -2.5 ; 0.\overline{3} ; 0.\overline{45} ; 3! ; 6 ; \binom{4}{2} ; 4! / 4
10^{100} ; 10^{99} \cdot 10 ; 2^{64} ; 18446744073709551616 ; 18446744073709551615 ; 2^{64} - 1 ; -0 ; 0 ; 00 ; +0 ; 1e10 ; 100,000 ; 100000 ; 1,00,000 ; 1.000 ; 1,000 ; 1000 ; 1000.0
|x - 3| ; |3 - x| ; \lfloor x \rfloor ; \lceil 2.1 \rceil ; \overline{AB} ; \overline{BA} ; \angle A ; \theta ; \frac{\theta}{2} ; \frac12 \theta ; \sqrt{x+1} ; (x+1)^{1/2} ; \sqrt{x} + 1 ; e^{2} ; e^2 ; e ; 2.718282
3 + 2\sqrt{2} ; (1+\sqrt{2})^2 ; \frac{1}{3-2\sqrt{2}} ; 5.828427 ; 5.8284 ; \frac{-1 \pm \sqrt{5}}{2} ; \frac{-1+\sqrt{5}}{2}, \frac{-1-\sqrt{5}}{2} ; 2 \pm \sqrt{3} ; 2-\sqrt{3}, 2+\sqrt{3} ; \sqrt{-1} ; i ; i^2 ; -1
"""


def singles():
    answers = [answer.strip() for line in SINGLES.strip().splitlines() for answer in line.split(";")]
    for answer, following in zip(answers, answers[1:] + answers[:1]):
        yield f"${answer}$", f"It is \\boxed{{{answer}}}."
        yield f"${answer}$", f"<answer>${answer}$</answer>"
        yield f"\\boxed{{{answer}}}", f"$$\\boxed{{{following}}}$$"
        yield f"${following}$", f"<answer>\\boxed{{{answer}}}</answer>"
        yield answer, f"<answer>{following}</answer>"


def strip_dollars(text):
    return text[1:-1] if text.startswith("$") and text.endswith("$") and len(text) > 2 else text


def cases():
    """(solution, completion)."""
    for groups in WRITINGS.values():
        for index, group in enumerate(groups):
            gold = group[0]
            # Each writing against the first one, and the first one of each other group.
            for other_index, other in enumerate(groups):
                for writing in other if other_index == index else other[:1]:
                    yield gold, f"<answer>{writing}</answer>"
                    yield gold, f"Thus \\boxed{{{strip_dollars(writing)}}}"
            for writing in group[1:]:
                yield writing, f"<answer>{gold}</answer>"
    for gold, answer in FRAMED:
        for frame in FRAMES:
            yield f"${gold}$", frame.format(*[answer] * 4)
    yield from singles()
    yield from KNOWN
    yield "$\\frac{-1 \\pm \\sqrt{5}}{2}$", "<answer>$\\frac{-1 + \\sqrt{5}}{2}$ and $\\frac{-1 - \\sqrt{5}}{2}$</answer>"
    yield "$x + y = 7$", "<answer>x + y = 7</answer>"
    yield "$x - y = 7$", "\\boxed{7}"
    yield "$2x = 7$", "\\boxed{7}"
    yield "$\\mathbb{R}$", "The final answer is: $\\boxed{\\mathbb{R}}$."
    for solution, completions in DATASETS:
        for completion in completions:
            yield solution, completion


# (solution, completion) -> (our score, why it differs).
CHAINED = "latex2sympy nests chained equations with a comma inside instead of taking the last side"
# A fraction over a sum with two signs equals nothing but its own text in math_verify, and so it does here.
IN_BOX = "latex2sympy reads sums and equations inside \\\\boxed in a formula, but no unions and no values with two signs"
KNOWN = {
    ("$(1,2)$", "The answer is $x = y = (1, 2)$"): (1.0, CHAINED),
    ("$32,348$", "The answer is $x = y = 32,348$"): (1.0, CHAINED),
    ("$\\{1, 2, 3\\}$", "The answer is $x = y = \\{1, 2, 3\\}$"): (1.0, CHAINED),
    ("$x \\in [-2,7]$", "\\[ \\boxed{x \\in [-2,7]} \\]"): (1.0, IN_BOX),
    ("$[0,1]\\cup[2,3]$", "$\\boxed{[2,3] \\cup [0,1]}$"): (1.0, IN_BOX),
    ("$\\pm 2$", "The final answer is: $\\boxed{x = \\pm 2}$."): (1.0, IN_BOX),
}


def random_cases(count):
    """Half of the pairs from one group of equal answers, so that many are correct."""
    generator = random.Random(0)
    groups = [group for groups in WRITINGS.values() for group in groups]
    groups += [[f"${answer.strip()}$"] for line in SINGLES.strip().splitlines() for answer in line.split(";")]
    for _ in range(count):
        group = generator.choice(groups)
        other = group if generator.random() < 0.5 else generator.choice(groups)
        answer = strip_dollars(generator.choice(other))
        yield generator.choice(group), generator.choice(FRAMES).format(*[answer] * 4)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random", type=int, help="number of random pairs")
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    seen = set()
    rows = []
    for solution, completion in random_cases(arguments.random) if arguments.random else cases():
        if (solution, completion) in seen:
            continue
        seen.add((solution, completion))
        row = {"solution": solution, "completion": completion, "score": score(completion, solution)}
        if (solution, completion) in KNOWN:
            row["ours"], row["note"] = KNOWN[solution, completion]
        rows.append(row)
    with arguments.out.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    correct = sum(row["score"] for row in rows)
    print(f"{len(rows)} cases, {correct:.0f} correct, {sum('ours' in row for row in rows)} known differences")


if __name__ == "__main__":
    main()
