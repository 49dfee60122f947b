#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws docs/house.svg: the folders of src/ and who includes whom, as the code has it today.

    python3 tools/draw_house.py            draws it
    python3 tools/draw_house.py --check    exits with 1 if the picture is not that of the code

A folder stands above all that it includes. An include that another path implies is not drawn: cli
reaches model through grpo. All folders stand on base.
"""
import argparse
import os
import pathlib
import re
import sys

# From the top down: each folder, the middle of its box as a share of the width, and what it is.
LEVELS = [
    {"cli": (0.5, ["the program: commands, flags,", "errors, exit codes"])},
    {"grpo": (0.6, ["the loops of grpo and sft:", "sample, reward, learn, save"]),
     "serve": (0.25, ["HTTP: OpenAI's routes,", "a trainer's, metrics"])},
    {"agent": (0.26, ["who answers the model between", "its turns: tools, environments"])},
    {"report": (0.09, ["a run as a page"]),
     "reward": (0.26, ["what completions", "are worth"]),
     "rollout": (0.47, ["the sampler: scheduler,", "engine, completions"]),
     "train": (0.7, ["forward and backward,", "AdamW, checkpoints"]),
     "sync": (0.9, ["weights between", "processes"])},
    {"model": (0.6, ["configuration, weights, one decoder,", "tables of weight formats"])},
    {"layout": (0.2, ["weights as boxes: proofs,", "plans, conversion"]),
     "cache": (0.39, ["paged keys and values,", "recurrent states"]),
     "parallel": (0.57, ["ranks, and what", "they exchange"]),
     "ops": (0.77, ["kernels (cpu) and", "their formulas (reference)"]),
     "io": (0.94, ["safetensors,", "event files"])},
    {"text": (0.14, ["tokenizer, chat templates,", "data sets"]),
     "net": (0.42, ["HTTP client"]),
     "tensor": (0.77, ["the border", "to libtorch"])},
    {"base": (0.5, ["errors, logging, options, JSON, files, random numbers, digests"])},
]
INCLUDE = re.compile(r'^\s*#\s*include "([a-z]+)/', re.MULTILINE)
WIDTH, BOX_HEIGHT, ROW, MARGIN, TOP = 1000, 64, 110, 20, 20
GROUND = "base"
TARGET = pathlib.Path("docs/house.svg")


def includes():
    """{folder: the folders that its files include}, as the code has it."""
    found = {}
    for path in sorted(pathlib.Path("src").rglob("*")):
        if path.suffix in (".h", ".cpp"):
            folder = path.parts[1]
            found.setdefault(folder, set()).update(INCLUDE.findall(path.read_text()))
    return {folder: (below & found.keys()) - {folder} for folder, below in found.items()}


def reachable(graph, folder):
    """Everything below a folder."""
    return graph[folder].union(*(reachable(graph, below) for below in graph[folder]))


def reduced(graph):
    """The arrows that no other path implies."""
    return {folder: {below for below in belows
                     if not any(below in reachable(graph, other) for other in belows - {below})}
            for folder, belows in graph.items()}


def places_of(levels):
    """{folder: (x, y, width)} of each box."""
    places = {}
    for index, level in enumerate(levels):
        for folder, (middle, lines) in level.items():
            width = max(90, 26 + 6 * max(len(line) for line in lines))
            if folder == GROUND:
                width = WIDTH - 2 * MARGIN
            places[folder] = (WIDTH * middle - width / 2, TOP + index * ROW, width)
    return places


def arrow(places, start, end, from_share, to_share):
    x1, y1, width1 = places[start]
    x2, y2, width2 = places[end]
    x1, y1 = x1 + width1 * from_share, y1 + BOX_HEIGHT
    x2 += width2 * to_share
    bend = min(60, (y2 - y1) / 2)
    return (f'<path class="arrow" d="M{x1:.0f} {y1} C{x1:.0f} {y1 + bend:.0f} '
            f'{x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2 - 5}"/>')


def box(folder, says, x, y, width):
    lines = [f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="{BOX_HEIGHT}" rx="5"/>',
             f'<text class="name" x="{x + width / 2:.0f}" y="{y + 20}">{folder}</text>']
    lines += [f'<text x="{x + width / 2:.0f}" y="{y + 38 + 15 * index}">{line}</text>'
              for index, line in enumerate(says)]
    return lines


def draw():
    graph = includes()
    level_of = {folder: index for index, level in enumerate(LEVELS) for folder in level}
    for folder, belows in graph.items():
        if folder not in level_of:
            sys.exit(f"draw_house: expected src/{folder} in LEVELS, got none")
        for below in belows:
            if level_of[below] <= level_of[folder]:
                sys.exit(f"draw_house: expected {below} below {folder}, which includes it")
    places = places_of(LEVELS)
    arrows = {folder: sorted(belows - {GROUND}, key=lambda below: places[below][0])
              for folder, belows in reduced(graph).items()}
    above = {folder: sorted((other for other in arrows if folder in arrows[other]),
                            key=lambda other: places[other][0]) for folder in arrows}
    height = TOP + (len(LEVELS) - 1) * ROW + BOX_HEIGHT + MARGIN
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
           'font-family="sans-serif" font-size="12" text-anchor="middle">',
           "<title>The folders of src/: a folder includes those below that its arrows lead to."
           "</title>",
           "<style>rect { fill: #eef3f8; stroke: #48627c } .name { font-weight: bold; "
           "font-size: 15px } .arrow { fill: none; stroke: #7a8fa5; marker-end: url(#head) }"
           "</style>",
           '<defs><marker id="head" orient="auto" markerWidth="7" markerHeight="7" refX="3" '
           'refY="3"><path d="M0 0 L6 3 L0 6 z" fill="#7a8fa5"/></marker></defs>',
           f'<rect width="{WIDTH}" height="{height}" style="fill: white; stroke: none"/>']
    for folder, belows in arrows.items():
        for index, below in enumerate(belows):
            out.append(arrow(places, folder, below, (index + 1) / (len(belows) + 1),
                             (above[below].index(folder) + 1) / (len(above[below]) + 1)))
    for level in LEVELS:
        for folder, (_, says) in level.items():
            out += box(folder, says, *places[folder])
    return "\n".join(out + ["</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    os.chdir(pathlib.Path(__file__).resolve().parent.parent)
    picture = draw()
    if not options.check:
        TARGET.write_text(picture)
        return 0
    if TARGET.exists() and TARGET.read_text() == picture:
        return 0
    print(f"{TARGET}: expected the picture of today's includes (run tools/draw_house.py)",
          file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
