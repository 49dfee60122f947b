#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes docs/report*.png: real runs of a small model that learns sums, as a browser shows them.

    tools/report_pictures.py --program build/bin/lockstep --runs out/pictures

Runs that lie in --runs already are taken as they are; without them it takes a quarter of an hour,
of which the run of 20,000 steps takes most. It needs chromium and pngquant, and shows Inter where
that is installed (Debian: chromium pngquant fonts-inter).
"""
import argparse
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "browser"))
import browser

MOST_BYTES = 200_000
FONT_RULE = """<match target="pattern"><test name="family"><string>{}</string></test>
<edit name="family" mode="prepend" binding="strong"><string>Inter</string>
<string>Noto Sans</string></edit></match>"""
FONTS = ('<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>'
         '<include ignore_missing="yes">/etc/fonts/fonts.conf</include>'
         + "".join(map(FONT_RULE.format, ("system-ui", "sans", "sans-serif"))) + "</fontconfig>")


class Runs:
    def __init__(self, program, folder):
        self.program, self.folder = program, folder

    def lockstep(self, *words):
        subprocess.run([self.program, *map(str, words)], check=True)

    def prepare(self):
        """Rows, and a model that a careless teacher has taught."""
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "sft" / "last").exists():
            subprocess.run([ROOT / "examples/arithmetic/make_data.sh", folder / "data"], check=True)
            self.lockstep("new-model", "--like", "qwen3_5", "--size", "tiny", "--output_dir",
                          folder / "model")
            self.lockstep("sft", "--model", folder / "model", "--tuner_type", "full", "--dataset",
                          folder / "data/sft.jsonl", "--output_dir", folder / "sft",
                          "--per_device_train_batch_size", 32, "--learning_rate", 2e-3,
                          "--warmup_ratio", 0.05, "--weight_decay", 0, "--max_steps", 500,
                          "--gradient_checkpointing", "false")

    def train(self, name, steps, rate, batch=128, evaluations=8):
        if not (self.folder / name / "report.html").exists():
            self.lockstep(
                "grpo", "--model", self.folder / "sft/last", "--tuner_type", "full", "--dataset",
                self.folder / "data/train.jsonl", "--val_dataset", self.folder / "data/test.jsonl",
                "--reward_funcs", "accuracy", "soft_overlong", "--soft_cache_length", 4,
                "--num_generations", 8, "--per_device_train_batch_size", batch,
                "--max_completion_length", 16, "--temperature", 1, "--beta", 0.002,
                "--log_entropy", "true", "--learning_rate", rate, "--weight_decay", 0,
                "--max_steps", steps, "--gradient_checkpointing", "false", "--eval_on_start",
                "true", "--eval_steps", steps // evaluations, "--num_generations_eval", 8,
                "--logging_steps", 1, "--save_steps", steps, "--overwrite", "true",
                "--output_dir", self.folder / name)
        return self.report(name)

    def report(self, *names):
        output = self.folder / f"{'-'.join(names)}.html"
        self.lockstep("report", *(self.folder / name for name in names), "--output", output,
                      "--overwrite", "true")
        return output.resolve().as_uri()


def save(page, name):
    """A picture of what is in view, with as few colours as it takes."""
    path = ROOT / "docs" / f"{name}.png"
    page.js("new Promise(r => setTimeout(r, 400))")
    page.picture(path)
    subprocess.run(["pngquant", "--force", "--strip", "--speed", "1", "--output", path, path],
                   check=True)
    size = path.stat().st_size
    print(f"{path.relative_to(ROOT)}: {size / 1000:.0f} kB")
    if size > MOST_BYTES:
        sys.exit(f"report_pictures: expected at most {MOST_BYTES} bytes, got {size}")


def show(page, address, name, size=(1440, 900), phone=False, dark=False, at="", act=""):
    page.size(*size, phone, 2 if phone else 1)
    page.dark(dark)
    page.open(address)
    page.js("localStorage.clear()")
    if at:
        page.js(f"document.querySelector({at!r}).scrollIntoView()")
    if act:
        page.js(act)
    save(page, name)


def point_at(page, chart, share):
    """Moves the pointer into a plot."""
    left, top, width, height = page.js(
        f"(() => {{ const b = document.querySelector('[data-chart=\"{chart}\"] canvas')"
        ".getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()")
    page.mouse("mouseMoved", left + width * share, top + height * 0.6)


@contextlib.contextmanager
def fonts():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "fonts.conf"
        path.write_text(FONTS)
        os.environ["FONTCONFIG_FILE"] = str(path)
        yield


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", default="build/bin/lockstep")
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("out/pictures"))
    options = parser.parse_args()
    for needed in ("chromium", "pngquant"):
        if not shutil.which(needed):
            sys.exit(f"report_pictures: expected the program {needed}, got none")
    os.chdir(ROOT)
    runs = Runs(options.program, options.runs)
    runs.prepare()
    main_run = runs.train("lr-5e-4", 400, 5e-4)
    runs.train("lr-2e-4", 400, 2e-4)
    short = runs.train("first-steps", 20, 5e-4, evaluations=4)
    long = runs.train("long", 20_000, 2e-5, batch=32, evaluations=20)
    phone = {"size": (390, 844), "phone": True}
    with fonts(), browser.opened() as page:
        show(page, main_run, "report-wide")
        point_at(page, "reward", 0.55)
        save(page, "report-wide")
        show(page, main_run, "report-wide-dark", dark=True)
        show(page, main_run, "report-phone", **phone)
        show(page, main_run, "report-phone-dark", dark=True, at="#samples", **phone)
        show(page, short, "report-20-steps")
        show(page, long, "report-20000-steps")
        show(page, long, "report-20000-steps-dark", dark=True,
             at="[data-chart='kl']", act="window.scrollBy(0, -40)")
        show(page, main_run, "report-completions", at="#samples")
        show(page, runs.report("lr-5e-4", "lr-2e-4"), "report-runs")


if __name__ == "__main__":
    main()
