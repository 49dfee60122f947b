# SPDX-License-Identifier: Apache-2.0
"""Draws what lockstep_scaling measured.

    python3 bench/plot_scaling.py scaling.json docs/scaling.svg
"""

import json
import math
import pathlib
import sys

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 420, 300, 58, 44, 40
COLOURS = ("#2b6cb0", "#c05621")


def processor():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


def nice_steps(low, high):
    """Powers of two, and of ten for the other axis, that lie in [low, high]."""
    first, last = math.ceil(math.log2(low) - 1e-9), math.floor(math.log2(high) + 1e-9)
    return [2 ** e for e in range(first, last + 1)]


def panel(title, x_name, curves, offset):
    """One diagram with logarithmic axes: microseconds a token over x."""
    points = [p for curve in curves.values() for p in curve]
    low_x, high_x = min(p[0] for p in points), max(p[0] for p in points)
    low_y, high_y = min(p[1] for p in points) / 2, max(p[1] for p in points) * 2
    right, floor = WIDTH - 28, HEIGHT - BOTTOM

    def x_of(x):
        return offset + LEFT + (right - LEFT) * math.log(x / low_x) / math.log(high_x / low_x)

    def y_of(y):
        return floor - (floor - TOP) * math.log(y / low_y) / math.log(high_y / low_y)

    out = [f'<text x="{offset + LEFT}" y="22" class="title">{title}</text>']
    for x in nice_steps(low_x, high_x):
        out.append(f'<text x="{x_of(x):.0f}" y="{floor + 16}" text-anchor="middle">{x}</text>')
    for y in nice_steps(low_y, high_y):
        out.append(f'<line x1="{offset + LEFT}" x2="{offset + right}" y1="{y_of(y):.1f}" '
                   f'y2="{y_of(y):.1f}" class="grid"/>')
        out.append(f'<text x="{offset + LEFT - 6}" y="{y_of(y) + 4:.1f}" '
                   f'text-anchor="end">{y:g}</text>')
    out.append(f'<text x="{offset + (LEFT + right) / 2:.0f}" y="{HEIGHT - 8}" '
               f'text-anchor="middle">{x_name}</text>')
    for (name, curve), colour in zip(curves.items(), COLOURS):
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in curve)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3" fill="{colour}"/>'
                for x, y in curve]
        x, y = curve[-1]
        out.append(f'<text x="{x_of(x):.0f}" y="{y_of(y) - 8:.0f}" text-anchor="end" '
                   f'fill="{colour}">{name}</text>')
    return out


def main(source, target):
    found = json.loads(pathlib.Path(source).read_text())
    note = f"microseconds a token; {processor()}, {found['threads']} threads"
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" height="{HEIGHT + 20}" '
             f'font-family="sans-serif" font-size="12">',
             "<style>.title { font-weight: bold } .grid { stroke: #ddd }</style>",
             f'<rect width="{2 * WIDTH}" height="{HEIGHT + 20}" fill="white"/>']
    lines += panel("A 10M Qwen3.5, samples of 64 tokens", "samples", found["samples"], 0)
    lines += panel("The mixers, forward and backward", "tokens of a sequence", found["length"],
                   WIDTH)
    lines += [f'<text x="{LEFT}" y="{HEIGHT + 12}">{note}</text>', "</svg>"]
    pathlib.Path(target).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
