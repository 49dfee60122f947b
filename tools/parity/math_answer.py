#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Judges answers with math_verify as ms-swift's MathAccuracy does, for
tests/reward/math_answer_test.cpp.

Writes tests/data/reward/math_answers.jsonl: {"solution", "completion", "score"}. math_verify 0.9,
latex2sympy2_extended 1.11, sympy 1.14. Where our comparison is known to differ the row also holds
"ours" and says why in "note": KNOWN below.

With --random COUNT --out FILE pairs of all answers are judged instead, for a one-off comparison
that is not committed: LOCKSTEP_MATH_ANSWERS=FILE build/…/lockstep_reward_test.

With --compare FILE the rows of a file that have a score are judged, and the differences printed.

SPDX-License-Identifier: Apache-2.0
"""

import argparse
import concurrent.futures
import concurrent.futures.process
import json
import logging
import multiprocessing
import pathlib
import random
import re
import resource
import signal
import warnings

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify

OUT = pathlib.Path(__file__).parents[2] / "tests" / "data" / "reward" / "math_answers.jsonl"

STRICT = [
    LatexExtractionConfig(
        normalization_config=NormalizationConfig(
            nits=False, malformed_operators=False, basic_latex=True, equations=True, boxed=True,
            units=True
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
    gold_parsed = parse(gold.group(1).strip() if gold else solution, extraction_mode="first_match",
                        parsing_timeout=None)
    if not gold_parsed:
        return 0.0
    if content:
        answer_parsed = parse(content.group(1).strip(), extraction_mode="first_match",
                              parsing_timeout=None)
    else:
        answer_parsed = parse(
            completion, extraction_config=STRICT, extraction_mode="first_match",
            parsing_timeout=None
        )
    try:
        return float(verify(gold_parsed, answer_parsed, timeout_seconds=None))
    except Exception:
        return 0.0


# Values in several writings: every pair of writings is judged, within a group and across.
WRITINGS = {
    "numbers": [
        ["42", "$42$", "42.0", "$42.00$", "$+42$", "042", "$\\frac{84}{2}$", "84/2",
         "$6 \\times 7$", "$42\\%$", "$42\\text{ apples}$", "42 apples", "$\\$42$", "$\\boxed{42}$",
         "$x = 42$", "x = 42"],
        ["-42", "$-42$", "$-42.0$"],
        ["43", "$43$", "$42.000001$", "$42.0000001$"],
    ],
    "fractions": [
        ["1/2", "0.5", "$0.5$", "$\\frac{1}{2}$", "$\\frac12$", "$\\dfrac{1}{2}$", "$1/2$", "50%",
         "$50\\%$", ".5", "$.5$", "$\\frac{2}{4}$", "$2^{-1}$", "$\\frac{1}{2}$ cups", "2/4",
         "$0.500$", "\\frac{1}{2}"],
        ["$\\frac{1}{3}$", "$0.333333$", "$0.3333333333$", "$0.3333$", "1/3", "33.3333%"],
        ["$1\\frac{1}{2}$", "$\\frac{3}{2}$", "1.5", "$1 \\frac12$", "150%"],
        ["$-\\frac{1}{2}$", "$\\frac{-1}{2}$", "-0.5", "$-1/2$", "-1/2"],
    ],
    "large": [
        ["1234567", "1,234,567", "$1,234,567$", "1 234 567", "$1{,}234{,}567$",
         "$1.234567 \\times 10^6$", "$1234567.0$", "1234567.00"],
        ["$10^{30}$", "1000000000000000000000000000000", "$1000000000000000000000000000000$",
         "$10^{29} \\cdot 10$"],
        ["$10^{30}+1$", "1000000000000000000000000000001"],
        ["123456789012345678901234567890123456789012345",
         "$123456789012345678901234567890123456789012345$"],
        ["$123456789012345678901234567890123456789012346$"],
    ],
    "formulas": [
        ["$2\\sqrt{3}$", "$\\sqrt{12}$", "$\\sqrt{4\\cdot 3}$", "$2 \\cdot 3^{1/2}$",
         "$\\frac{6}{\\sqrt{3}}$", "$3.464102$", "$3.4641016151$"],
        ["$x^2+2x+1$", "$(x+1)^2$", "$1+2x+x^2$", "$(1+x)(x+1)$", "$x(x+2)+1$"],
        ["$\\frac{x+1}{x-1}$", "$\\frac{-x-1}{1-x}$", "$(x+1)/(x-1)$"],
        ["$2\\pi$", "$\\pi \\cdot 2$", "$\\frac{4\\pi}{2}$", "$6.283185$", "$6.283185307$"],
        ["$\\frac{\\sqrt{2}}{2}$", "$\\frac{1}{\\sqrt{2}}$", "$\\sqrt{\\frac{1}{2}}$",
         "$2^{-1/2}$"],
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
        ["$\\text{Evelyn}$", "$\\text{evelyn}$", "$\\text{ Evelyn }$", "$\\textbf{Evelyn}$",
         "$\\mathrm{Evelyn}$"],
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
        ["$5\\text{ cm}$", "$5 \\text{ cm}$", "$5\\,\\text{cm}$", "5 cm", "$5$ cm",
         "$5 \\mathrm{cm}$", "$5\\text{ cm}^2$", "$5$"],
        ["$90^\\circ$", "$90^{\\circ}$", "90", "$90\\text{ degrees}$", "90 degrees",
         "$90$ degrees"],
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
    "First \\boxed{{7}}, then we look at it for a long while and many more words and find "
    "\\boxed{{{}}}",
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
FRAMED = [("18", "18"), ("\\frac{3}{4}", "0.75"), ("\\frac{3}{4}", "\\frac{3}{4}"),
          ("\\frac{3}{4}", "\\frac34"), ("x+1", "1+x"), ("(1,2)", "(1, 2)"),
          ("\\text{yes}", "\\text{Yes}"), ("1,234", "1234"), ("5", "\\$5"), ("10", "10\\%")]

# Solutions as data sets write them (GSM8K, MATH), with right and wrong completions.
DATASETS = [
    ("Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 = <<48+24=72>>72 clips "
     "altogether in April and May.\n#### 72",
     ["\\boxed{72}", "The answer is \\boxed{72}.", "\\boxed{24}", "72", "<answer>72</answer>",
      "<answer>48+24 = 72</answer>", "<answer>The total is 72 clips.</answer>",
      "<answer>72.5</answer>", ""]),
    ("#### 1,450", ["\\boxed{1450}", "\\boxed{1,450}", "\\boxed{1450.00}", "\\boxed{\\$1,450}",
                    "<answer>$1,450</answer>", "<answer>1 450</answer>", "\\boxed{145}"]),
    ("We have $x^2=4$ so the answer is $\\boxed{2}$.",
     ["\\boxed{2}", "$\\boxed{x=2}$", "\\boxed{-2}", "\\boxed{\\pm 2}", "<answer>2</answer>"]),
    ("Thus, $p - q = \\boxed{\\frac{9}{5}}.$",
     ["\\boxed{1.8}", "\\boxed{\\frac{9}{5}}", "\\boxed{9/5}", "\\boxed{1\\frac{4}{5}}",
      "\\boxed{\\frac95}", "<answer>\\frac95</answer>", "<answer>$\\frac95$</answer>",
      "<answer>9/5</answer>"]),
    ("<answer> 12 </answer>",
     ["<answer>12</answer>", "\\boxed{12}", "<answer>12.</answer>", "<answer>twelve</answer>"]),
    ("no number here", ["\\boxed{1}", "no number here", "<answer>no number here</answer>"]),
    ("", ["\\boxed{1}", ""]),
    ("yes", ["\\boxed{\\text{yes}}", "yes"]),
    ("$\\text{yes}$", ["\\boxed{\\text{yes}}", "\\boxed{yes}", "<answer>yes</answer>",
                       "<answer>$\\text{Yes}$</answer>"]),
    ("12:30", ["\\boxed{12:30}", "<answer>12:30</answer>", "\\boxed{30}"]),
    ("-3",
     ["\\boxed{-3}", "\\boxed{3}", "<answer>-3</answer>", "<answer>- 3</answer>", "\\boxed{−3}"]),
    ("$0$", ["\\boxed{0}", "\\boxed{-0}", "\\boxed{0.0}", "\\boxed{}", "\\boxed{0.0000001}"]),
    ("$3.14$", ["\\boxed{3.14}", "\\boxed{\\pi}", "\\boxed{\\frac{157}{50}}", "\\boxed{3.1400001}",
                "\\boxed{3.141}"]),
    ("$\\pi$", ["\\boxed{3.14}", "\\boxed{3.141593}", "\\boxed{\\pi}", "\\boxed{180^\\circ}"]),
    ("$100$", ["\\boxed{10^2}", "\\boxed{1e2}", "\\boxed{1\\times 10^2}", "\\boxed{100.}",
               "\\boxed{100\\%}", "\\boxed{100\\text{ m}}", "\\boxed{100 m}",
               "\\boxed{100 \\text{ dollars}}", "\\boxed{\\text{100}}", "\\boxed{one hundred}"]),
    ("$\\frac{1}{0}$", ["\\boxed{\\frac{1}{0}}", "\\boxed{0}"]),
    ("$x=\\frac{-b\\pm\\sqrt{b^2-4ac}}{2a}$",
     ["\\boxed{\\frac{-b\\pm\\sqrt{b^2-4ac}}{2a}}",
      "\\boxed{x=\\frac{-b \\pm \\sqrt{b^2-4ac}}{2a}}"]),
    ("$0.\\overline{3}$", ["\\boxed{0.\\overline{3}}", "\\boxed{\\frac{1}{3}}"]),
    ("2^10",
     ["\\boxed{1024}", "\\boxed{2^{10}}", "<answer>1024</answer>", "<answer>2**10</answer>"]),
    ("3*(4+5)",
     ["\\boxed{27}", "<answer>3*(4+5)</answer>", "<answer>27</answer>", "<answer>(3)(9)</answer>"]),
    ("7/8 of the cake",
     ["\\boxed{\\frac{7}{8}}", "\\boxed{0.875}", "<answer>7/8</answer>", "\\boxed{7/8}"]),
    ("$\\frac{7}{8}$ or $1$", ["\\boxed{\\frac{7}{8}}", "\\boxed{1, \\frac{7}{8}}"]),
]


# Answers as they stand in MATH and the like: each against itself in a box, in a tag, and against
# the next one.
SINGLES = r"""
\frac{43}{2} ; 2k+2 ; p - q ; (3, \frac{\pi}{2}) ; \left( 3, \frac{\pi}{2} \right) ; 6 - 5i
4 - 3i ; \sqrt{51} ; 3\sqrt{13} ; 10\sqrt{2}+3
x^3 + 3x - 6 ; -2 + 7i ; \text{east} ; \text{Saturday} ; 6+9i ; (6,31,-1) ; 203 ; 1,-2
\frac{1}{8} ; .35625 ; 8\sqrt{2} ; 70 \sqrt{2} ; \$32,\!348 ; 32,348
\left(-\frac{3}{2}, \infty\right) ; [-2,7] ; (-\infty, 0) \cup (0, \infty) ; \{1, 2, 3\}
x \in [-2,7] ; -1 \le x < 3 ; [0, \infty) ; \emptyset ; \mathbb{R}
\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix} ; \begin{pmatrix} 0 & 3 \\ -1 & 2 \end{pmatrix}
\begin{pmatrix} 0 & 3 \\ -1 & 3 \end{pmatrix} ; \begin{bmatrix} 1 & 2 \end{bmatrix}
5.4 \text{ cents} ; 18^{\circ} ; 60^\circ ; 12\text{ square units} ; 36\pi ; \frac{9}{7} \pi
864 \mbox{ inches}^2 ; 15\mbox{ cm}^2 ; 1.25 \times 10^{-4} ; 0.000125 ; 11\% ; \frac{3}{56}
\frac{270}7\text{ degrees} ; \sqrt[3]{4} ; 2^{2/3} ; 2^{x+1} ; 2 \cdot 2^x ; \log_3 9 ; \ln 2
\log 100 ; \tan 45 ; \sin^2 x + \cos^2 x ; 1 - \cos^2 x ; \sin^2 x ; \cos 2x
y = \frac{1}{2} x - 3 ; y = 0.5x - 3 ; 2y = x - 6 ; x + y = 7 ; x^2 + y^2 = 25 ; x = 3, y = 4
(3,4) ; 3,4 ; n = 5 ; f(x) = x^2 ; x^2 ; a_n = 2n ; 2n ; x \ge 2 ; x < -1
\frac{a^2 b}{c} ; a^2bc^{-1} ; \frac{x-1}{x+2} ; 1 - \frac{3}{x+2} ; (x-2)(x+3) ; x^2+x-6
(x+3)(x-2) ; -x^2-x+6 ; 9x^2-4 ; (3x-2)(3x+2) ; x^{10} ; x^{11} ; abc ; cba ; a b c
\text{(B)} ; \text{B} ; B ; \textbf{(B)}\ 5 ; \text{A, C} ; A, C ; \text{True} ; \text{odd}
\text{Navin} ; \text{6 hours} ; \text{ellipse} ; 2:15 ; 7{,}5 ; 7,5 ; 7.5
1\frac{3}{4} ; 1.75 ; \frac{7}{4} ; 7/4 ; \tfrac{7}{4} ; 175\% ; 13\frac{1}{3} ; 1 \frac{1}{2}
-2\frac{1}{2} ; -2.5 ; 0.\overline{3} ; 0.\overline{45} ; 3! ; 6 ; \binom{4}{2} ; 4! / 4
10^{100} ; 10^{99} \cdot 10 ; 2^{64} ; 18446744073709551616 ; 18446744073709551615 ; 2^{64} - 1
-0 ; 0 ; 00 ; +0 ; 1e10 ; 100,000 ; 100000 ; 1,00,000 ; 1.000 ; 1,000 ; 1000 ; 1000.0
|x - 3| ; |3 - x| ; \lfloor x \rfloor ; \lceil 2.1 \rceil ; \overline{AB} ; \overline{BA}
\angle A ; \theta ; \frac{\theta}{2} ; \frac12 \theta ; \sqrt{x+1} ; (x+1)^{1/2} ; \sqrt{x} + 1
e^{2} ; e^2 ; e ; 2.718282
3 + 2\sqrt{2} ; (1+\sqrt{2})^2 ; \frac{1}{3-2\sqrt{2}} ; 5.828427 ; 5.8284
\frac{-1 \pm \sqrt{5}}{2} ; \frac{-1+\sqrt{5}}{2}, \frac{-1-\sqrt{5}}{2} ; 2 \pm \sqrt{3}
2-\sqrt{3}, 2+\sqrt{3} ; \sqrt{-1} ; i ; i^2 ; -1
"""


def singles():
    answers = [answer.strip() for line in SINGLES.strip().splitlines()
               for answer in line.split(";")]
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
    yield ("$\\frac{-1 \\pm \\sqrt{5}}{2}$",
           "<answer>$\\frac{-1 + \\sqrt{5}}{2}$ and $\\frac{-1 - \\sqrt{5}}{2}$</answer>")
    yield "$x + y = 7$", "<answer>x + y = 7</answer>"
    yield "$x - y = 7$", "\\boxed{7}"
    yield "$2x = 7$", "\\boxed{7}"
    yield "$\\mathbb{R}$", "The final answer is: $\\boxed{\\mathbb{R}}$."
    for solution, completions in DATASETS:
        for completion in completions:
            yield solution, completion
    yield from KNOWN


# (our score, why it differs, the pairs (solution, completion)). In each of them ours is right.
DIFFERENCES = [
    (1.0, "latex2sympy nests chained equations with a comma inside instead of taking the last side",
     [
        (r"$(1,2)$", r"The answer is $x = y = (1, 2)$"),
        (r"$32,348$", r"The answer is $x = y = 32,348$"),
        (r"$\{1, 2, 3\}$", r"The answer is $x = y = \{1, 2, 3\}$"),
    ]),
    (1.0, "latex2sympy reads sums and equations inside \\boxed in a formula, but no unions, no "
          "values with two signs and no commas between thousands", [
        (r"$x \in [-2,7]$", r"\[ \boxed{x \in [-2,7]} \]"),
        (r"$[0,1]\cup[2,3]$", r"$\boxed{[2,3] \cup [0,1]}$"),
        (r"$\pm 2$", r"The final answer is: $\boxed{x = \pm 2}$."),
        (r"\boxed{\$32,\!348}", r"$$\boxed{32,348}$$"),
    ]),
    (1.0, "TeX does not set spaces between digits; latex2sympy multiplies the groups", [
        (r"1234567", r"Thus \boxed{1 234 567}"),
    ]),
    (1.0, "the same inequalities from right to left", [
        (r"$1 < x < 2$", r"<answer>$2 > x > 1$</answer>"),
        (r"$1 < x < 2$", r"Thus \boxed{2 > x > 1}"),
    ]),
    (0.0, "an interval is no pair of values for x and y", [
        (r"$1 < x < 2$", r"<answer>$x=1, y=2$</answer>"),
        (r"$1 < x < 2$", r"Thus \boxed{x=1, y=2}"),
        (r"$1 < x < 2$", r"<answer>$x=1,2$</answer>"),
        (r"$1 < x < 2$", r"Thus \boxed{x=1,2}"),
    ]),
    (1.0, "both are the same text but for the marks that set it", [
        (r"$2 > x > 1$", r"<answer>$1 < x < 2$</answer>"),
        (r"$\text{no}$", r"<answer>no</answer>"),
        (r"no", r"<answer>$\text{no}$</answer>"),
        (r"$(1,2)$", r"<answer>(1, 2)</answer>"),
        (r"(3, \frac{\pi}{2})", r"<answer>\left( 3, \frac{\pi}{2} \right)</answer>"),
        (r"$\frac{270}7\text{ degrees}$", r"It is \boxed{\frac{270}7\text{ degrees}}."),
        (r"\boxed{\text{(B)}}", r"$$\boxed{\text{B}}$$"),
        (r"\text{(B)}", r"<answer>\text{B}</answer>"),
        (r"\text{B}", r"<answer>B</answer>"),
        (r"\boxed{\text{A, C}}", r"$$\boxed{A, C}$$"),
        (r"$A, C$", r"<answer>\boxed{\text{A, C}}</answer>"),
        (r"\text{A, C}", r"<answer>A, C</answer>"),
        (r"$\frac12 \theta$", r"It is \boxed{\frac12 \theta}."),
        (r"no number here", r"<answer>no number here</answer>"),
        (r"yes", r"\boxed{\text{yes}}"),
        (r"$\text{yes}$", r"<answer>yes</answer>"),
        (r"12:30", r"\boxed{12:30}"),
        (r"-3", r"<answer>- 3</answer>"),
        (r"$100$", r"\boxed{100.}"),
        (r"$x=\frac{-b\pm\sqrt{b^2-4ac}}{2a}$", r"\boxed{\frac{-b\pm\sqrt{b^2-4ac}}{2a}}"),
        (r"$x=\frac{-b\pm\sqrt{b^2-4ac}}{2a}$", r"\boxed{x=\frac{-b \pm \sqrt{b^2-4ac}}{2a}}"),
    ]),
    (1.0, "the answer is given twice", [
        (r"$(1,2)$", "x <answer>\nSo we have $(1, 2)$ and $(1, 2)$\n</answer>"),
    ]),
    (1.0, "math_verify takes the first number out of a solution without dollar signs; the whole of "
          "it is a formula", [
        (r"1.25 \times 10^{-4}", r"<answer>0.000125</answer>"),
        (r"1\frac{3}{4}", r"<answer>1.75</answer>"),
        (r"-2\frac{1}{2}", r"<answer>-2.5</answer>"),
        (r"3!", r"<answer>6</answer>"),
        (r"2^{64}", r"<answer>18446744073709551616</answer>"),
        (r"\frac{1}{3-2\sqrt{2}}", r"<answer>5.828427</answer>"),
    ]),
    (0.0, "math_verify takes the first number out of a solution without dollar signs; the whole of "
          "it is a formula", [
        (r"1,00,000", r"<answer>1.000</answer>"),
    ]),
    (1.0, "latex2sympy does not carry out what is done to a value with two signs", [
        (r"\boxed{\frac{-1 \pm \sqrt{5}}{2}}",
         r"$$\boxed{\frac{-1+\sqrt{5}}{2}, \frac{-1-\sqrt{5}}{2}}$$"),
        (r"$\frac{-1+\sqrt{5}}{2}, \frac{-1-\sqrt{5}}{2}$",
         r"<answer>\boxed{\frac{-1 \pm \sqrt{5}}{2}}</answer>"),
        (r"$\frac{-1 \pm \sqrt{5}}{2}$",
         r"<answer>$\frac{-1 + \sqrt{5}}{2}$ and $\frac{-1 - \sqrt{5}}{2}$</answer>"),
    ]),
    (1.0, "the solution says what stands on its left is worth, and the answer gives that value", [
        (r"$x - y = 7$", r"\boxed{7}"),
        (r"$2x = 7$", r"\boxed{7}"),
    ]),
    (1.0, "both choose the same letter", [
        (r"$\textbf{(B)}\ 5$", r"<answer>\boxed{B}</answer>"),
        (r"B", r"<answer>\textbf{(B)}\ 5</answer>"),
    ]),
    (1.0, "a sign of currency says nothing about the number", [
        (r"$5$", r"<answer>\$5</answer>"),
    ]),
    (1.0, "the word names the number", [
        (r"<answer> 12 </answer>", r"<answer>twelve</answer>"),
    ]),
    (1.0, "math_verify finds a number in a formula without dollar signs", [
        (r"$x+1$", r"<answer>1+x</answer>"),
    ]),
    (1.0, "latex2sympy does not know digits that repeat", [
        (r"$0.\overline{3}$", r"\boxed{\frac{1}{3}}"),
    ]),
]
KNOWN = {pair: (ours, reason) for ours, reason, pairs in DIFFERENCES for pair in pairs}


def random_cases(count):
    """Half of the pairs from one group of equal answers, so that many are correct."""
    generator = random.Random(0)
    groups = [group for groups in WRITINGS.values() for group in groups]
    groups += [[f"${answer.strip()}$"] for line in SINGLES.strip().splitlines()
               for answer in line.split(";")]
    for _ in range(count):
        group = generator.choice(groups)
        other = group if generator.random() < 0.5 else generator.choice(groups)
        answer = strip_dollars(generator.choice(other))
        yield generator.choice(group), generator.choice(FRAMES).format(*[answer] * 4)


def within_limits(completion, solution):
    """math_verify's score, or why there is none: it writes out 2^(10^9)."""
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    signal.alarm(10)
    return score(completion, solution)


def compare(path):
    """Each row in a process of its own, which may be killed."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    agreed = 0
    for row in rows:
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            try:
                theirs = pool.submit(within_limits, row["completion"], row["solution"]).result()
            except (concurrent.futures.process.BrokenProcessPool, MemoryError):
                theirs = "too large"
        agreed += theirs == row["score"]
        if theirs != row["score"]:
            print(
                f"{row['solution']} | {row['completion']}: right {row['score']}, math_verify "
                f"{theirs}")
    print(f"{agreed} of {len(rows)} agree")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random", type=int, help="number of random pairs")
    parser.add_argument("--compare", type=pathlib.Path,
                        help="rows with a score: prints where math_verify differs")
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    if arguments.compare:
        return compare(arguments.compare)
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
    print(
        f"{len(rows)} cases, {correct:.0f} correct, {sum('ours' in row for row in rows)} known "
        "differences")


if __name__ == "__main__":
    main()
