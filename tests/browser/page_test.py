#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Opens reports in a real browser, reads what stands on them, and measures how quick they are.

    page_test.py --program build/bin/lockstep

Exit status 77 where no Chromium is installed: nothing was tested.
"""
import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import browser
import made_run

PROGRAM = "build/bin/lockstep"
MOST_BYTES, MOST_PAINT_MS = 5_000_000, 1000
# What stands in the middle of a canvas that shows nothing is grid; a curve is hundreds of pixels.
LEAST_PIXELS = 150
COLORED = """(name => {
  const canvas = document.querySelector(`[data-chart="${name}"] canvas`);
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let i = 0; i < data.length; i += 4) {
    const most = Math.max(data[i], data[i + 1], data[i + 2]);
    const least = Math.min(data[i], data[i + 1], data[i + 2]);
    if (data[i + 3] > 200 && most - least > 60) ++count;
  }
  return count;
})"""


def number_text(value):
    """As data.js writes numbers between 0.001 and 1000."""
    digits = 4 if abs(value) >= 100 else 3
    text = f"{value:.{digits - 1 - math.floor(math.log10(abs(value)))}f}" if value else "0"
    return text.rstrip("0").rstrip(".") if "." in text else text


class PageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder_context = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.folder_context.name)
        cls.browser_context = browser.opened()
        cls.page = cls.browser_context.__enter__()
        made_run.write(cls.folder / "small", 20)
        cls.small = cls.report("small")

    @classmethod
    def tearDownClass(cls):
        cls.browser_context.__exit__(None, None, None)
        cls.folder_context.cleanup()

    @classmethod
    def report(cls, *runs, name=None):
        path = cls.folder / f"{name or '-'.join(runs)}.html"
        subprocess.run([PROGRAM, "report", *(str(cls.folder / run) for run in runs), "--output",
                        str(path), "--overwrite", "true", "--quiet", "true"], check=True)
        return path

    def open(self, path, width=1440, height=900, phone=False, dark=False):
        self.page.errors.clear()
        self.page.size(width, height, phone)
        self.page.dark(dark)
        self.page.open(path if isinstance(path, str) else path.as_uri())
        self.page.js("localStorage.clear()")

    def tearDown(self):
        self.assertEqual(self.page.errors, [])

    def text(self, selector):
        return self.page.js(f"document.querySelector({json.dumps(selector)})?.innerText")

    def last(self, key, run=""):
        more = f'[data-run="{run}"]' if run else ""
        value = self.page.js(f"document.querySelector('.item[data-key=\"{key}\"]{more}')"
                             "?.dataset.last")
        return value and float(value)

    def show(self, key):
        """Brings a chart into view, and returns the canvas's place."""
        return self.page.js(f"""(async () => {{
          const canvas = document.querySelector('[data-chart="{key}"] canvas');
          canvas.scrollIntoView({{ block: 'center' }});
          await new Promise(r => setTimeout(r, 120));
          const box = canvas.getBoundingClientRect();
          return [box.left, box.top, box.width, box.height];
        }})()""")

    def test_values_of_a_run_stand_on_its_page(self):
        self.open(self.small)
        final, best = made_run.reward(20, 20), made_run.reward(20, 20) - 0.1
        tiles = {name: self.text(f'[data-tile="{name}"]').split("\n")
                 for name in ("last", "best", "steps", "length", "speed", "time")}
        self.assertEqual(tiles["last"][:2], ["Final reward", number_text(final)])
        rewards = [made_run.reward(step, 20) - 0.1 for step in range(2, 21, 2)]
        best = max(rewards)
        self.assertEqual(tiles["best"], ["Best evaluation", number_text(best),
                                         f"at step {2 + 2 * rewards.index(best)}"])
        self.assertEqual(tiles["steps"][1], "20 / 20")
        self.assertEqual(tiles["length"][2], "2% cut off")
        self.assertEqual(tiles["time"][1], "1h 2m")
        self.assertEqual(self.text("#state"), "finished")
        for key in ("reward", "kl", "entropy/mean", "grad_norm"):
            self.show(key if key != "entropy/mean" else "entropy/mean entropy/max entropy/min")
            self.assertAlmostEqual(self.last(key), made_run.line(20, 20, 0)[key], places=4)
        self.assertEqual(self.page.js("performance.getEntriesByType('resource').length"), 0)

    def test_no_metric_is_left_out(self):
        self.open(self.small)
        shown = " ".join(self.page.js("[...document.querySelectorAll('[data-chart]')]"
                                      ".map(card => card.dataset.chart)"))
        known = made_run.line(1, 20, 0)
        for name, value in known.items():
            if not isinstance(value, (int, float)) or name in ("epoch", "num_tokens"):
                continue
            # Two names of one reward are one curve; the phases are one picture.
            hidden = name == "rewards/MathAccuracy/mean" or name.startswith("time/")
            self.assertEqual(name in shown.split(), not hidden, name)
        groups = self.page.js("[...document.querySelectorAll('.group > h2')].map(h => h.innerText)")
        for group in ("Reward", "Completions", "Policy", "Learning", "Speed", "fipo", "Further"):
            self.assertIn(group, groups)
        self.show("rollout_correction/kl")
        self.assertIn("1 not finite", self.text('[data-chart="rollout_correction/kl"] .legend'))

    def test_every_plot_shows_something(self):
        self.open(self.small)
        for key in self.page.js("[...document.querySelectorAll('[data-chart]')]"
                                ".map(card => card.dataset.chart)"):
            self.show(key)
            self.assertGreater(self.page.js(f"{COLORED}({json.dumps(key)})"), LEAST_PIXELS, key)

    def test_what_stands_under_the_pointer_and_the_keys(self):
        self.open(self.small)
        left, top, width, height = self.show("reward")
        tip = '[data-chart="reward"] .tip'
        self.page.mouse("mouseMoved", left + width - 9, top + height / 2)
        self.assertIn(f"step 20\n\treward\t{number_text(made_run.reward(20, 20))}", self.text(tip))
        self.assertIn("evaluation", self.text(tip))
        self.page.js("document.querySelector('[data-chart=\"reward\"] canvas').focus()")
        self.page.key("Home")
        self.page.key("ArrowRight")
        self.page.key("ArrowRight")
        self.assertIn(f"step 3\n\treward\t{number_text(made_run.reward(3, 20))}", self.text(tip))
        # The line stands at the same step in the plots beside it.
        crosses = self.page.js("[...document.querySelectorAll('.cross')].filter("
                               "c => c.style.display === 'block').length")
        self.assertGreater(crosses, 2)

    def test_dragging_looks_closer_at_all_plots(self):
        self.open(self.small)
        left, top, width, height = self.show("reward")
        domain = ("document.querySelector('[data-chart=\"{}\"]').chart.domain"
                  .format)
        self.assertEqual(self.page.js(domain("reward")), [1, 20])
        self.page.drag((left + width * 0.4, top + 50), (left + width * 0.6, top + 60))
        self.page.js("new Promise(r => setTimeout(r, 100))")
        low, high = self.page.js(domain("reward"))
        self.assertTrue(7 < low < 10 and 11 < high < 14, (low, high))
        self.assertEqual(self.page.js(domain("reward_std")), [low, high])
        self.assertFalse(self.page.js("document.getElementById('reset').hidden"))
        self.page.key("Escape")
        self.page.js("new Promise(r => setTimeout(r, 100))")
        self.assertEqual(self.page.js(domain("reward")), [1, 20])
        self.assertTrue(self.page.js("document.getElementById('reset').hidden"))

    def test_smoothing_is_the_moving_average(self):
        self.open(self.small)
        self.show("reward")
        self.page.js("""(() => { const slider = document.getElementById('smoothing');
          slider.value = 0.5; slider.dispatchEvent(new Event('input')); })()""")
        self.page.js("new Promise(r => setTimeout(r, 100))")
        total = weight = 0
        for step in range(1, 21):
            total, weight = total / 2 + made_run.reward(step, 20), weight / 2 + 1
        smoothed = self.page.js("document.querySelector('[data-chart=\"reward\"]')"
                                ".chart.all[0].values.at(-1)")
        self.assertAlmostEqual(smoothed, total / weight, places=4)

    def test_themes(self):
        for dark in (False, True):
            self.open(self.small, dark=dark)
            ground = self.page.js("getComputedStyle(document.body).backgroundColor")
            brightness = sum(map(int, ground[4:-1].split(",")))
            self.assertEqual(brightness < 150, dark, ground)
            self.page.js("document.getElementById('theme').click()")
            after = self.page.js("getComputedStyle(document.body).backgroundColor")
            self.assertEqual(sum(map(int, after[4:-1].split(","))) < 150, not dark, after)
            self.page.js("localStorage.clear()")

    def test_completions_are_texts_that_can_be_found(self):
        self.open(self.small)
        self.assertIsNone(self.page.js("window.hacked ?? null"))
        steps = self.page.js("[...document.querySelectorAll('.step')].map(s => s.dataset.step)")
        self.assertEqual(len(steps), 10)
        self.assertIn("MathAccuracy 1", self.text(".answer .facts"))
        self.page.js("""(() => { const box = document.getElementById('find');
          box.value = 'window.HACKED'; box.dispatchEvent(new Event('input')); })()""")
        self.assertEqual(self.text("mark"), "window.hacked")
        self.assertIn(made_run.HOSTILE, self.page.js("document.querySelector('.steps').innerText"))
        self.assertIsNone(self.page.js("window.hacked ?? null"))
        self.page.js("""(() => { const box = document.getElementById('find');
          box.value = 'nowhere to be found'; box.dispatchEvent(new Event('input')); })()""")
        self.assertIn("Nothing found", self.text("#samples"))

    def test_a_metric_can_be_found(self):
        self.open(self.small)
        self.page.key("/")
        self.assertEqual(self.page.js("document.activeElement.id"), "filter")
        for key in "entropy":
            self.page.key(key)
        shown = self.page.js("[...document.querySelectorAll('.chart')].filter(c => !c.hidden)"
                             ".map(c => c.dataset.chart)")
        self.assertEqual(shown, ["entropy/mean entropy/max entropy/min"])

    def test_a_phone_shows_it_without_scrolling_aside(self):
        self.open(self.small, 390, 844, phone=True)
        self.assertLessEqual(self.page.js("document.documentElement.scrollWidth"), 390)
        outside = self.page.js("""
          [...document.querySelectorAll('main .tile, main .chart, h2, nav *')]
          .filter(e => e.getBoundingClientRect().right > 391).map(e => e.className || e.tagName)""")
        self.assertEqual(outside, [])

    def test_several_runs_lie_over_one_another(self):
        made_run.write(self.folder / "other", 12, shift=-0.25, is_over=False, beta=0.5)
        self.open(self.report("small", "other"))
        rows = self.page.js("[...document.querySelectorAll('.runs tbody tr')]"
                            ".map(row => row.innerText)")
        self.assertEqual([row.split()[0] for row in rows], ["small", "other"])
        self.assertIn("20 / 20", rows[0])
        self.assertIn("6 / 12", rows[1])
        self.show("reward")
        self.assertAlmostEqual(self.last("reward", "small"), made_run.reward(20, 20), places=4)
        self.assertAlmostEqual(self.last("reward", "other"), made_run.reward(6, 12, -0.25),
                               places=4)
        names = self.page.js("[...document.querySelectorAll('#settings tbody tr')]"
                             ".map(r => r.innerText)")
        self.assertEqual(names, ["beta\t0.04\t0.5"])
        self.page.js("document.querySelector('.runs input').click()")
        self.page.js("new Promise(r => setTimeout(r, 100))")
        self.assertIsNone(self.last("reward", "small"))
        self.assertEqual(self.text("#state"), "1 of 2 finished")

    def test_runs_without_steps_or_completions_say_so(self):
        empty = self.folder / "empty"
        empty.mkdir(exist_ok=True)
        (empty / "logging.jsonl").write_text("")
        self.open(self.report("empty"))
        self.assertIn("No step has been logged yet", self.text("#curves"))
        self.assertIn("No completions here", self.text("#samples"))
        self.assertIn("No settings here", self.text("#settings"))

    def test_a_live_page_follows_a_run(self):
        folder = self.folder / "live"
        folder.mkdir()
        subprocess.run([PROGRAM, "new-model", "--like", "qwen3", "--size", "tiny", "--quiet",
                        "true", "--output_dir", str(folder / "model")], check=True)
        (folder / "rows.jsonl").write_text("".join(
            json.dumps({"messages": [{"role": "user", "content": f"{i} + 1?"}]}) + "\n"
            for i in range(8)))
        command = [PROGRAM, "grpo", "--model", "model", "--tuner_type", "full", "--dataset",
                   "rows.jsonl", "--reward_funcs", "format", "soft_overlong",
                   "--soft_cache_length", "4", "--num_generations", "4",
                   "--max_completion_length", "24", "--logging_steps", "1", "--threads", "1",
                   "--save_strategy", "no", "--output_dir", "run", "--dashboard", "0",
                   "--max_steps", "400"]
        command[0] = str(pathlib.Path(PROGRAM).resolve())
        with open(folder / "err", "wb") as err:
            run = subprocess.Popen(command, cwd=folder, stderr=err, stdout=err)
        try:
            self.page.wait("true")
            address = self.said(folder / "err", "dashboard: ")
            self.open(address)
            self.page.wait("Number(document.querySelector('[data-tile=\"steps\"] .value')"
                           "?.innerText.split(' ')[0]) >= 3")
            early = int(self.text('[data-tile="steps"] .value').split(" ")[0])
            self.assertIn("live", self.text("#state"))
            self.page.wait("document.querySelectorAll('#samples .answer').length > 0")
            # It grows by itself, and sees the end.
            self.page.wait("document.getElementById('state').innerText === 'finished'", 120)
            self.assertLess(early, 400)
            self.assertEqual(run.wait(30), 0)
            log = (folder / "run/logging.jsonl").read_text().splitlines()
            rewards = [line["reward"] for line in map(json.loads, log) if "reward" in line]
            self.show("reward")
            self.assertEqual(self.page.js("document.querySelector('[data-chart=\"reward\"]')"
                                          ".chart.all[0].raw.length"), 400)
            shown = self.page.js("[...document.querySelector('[data-chart=\"reward\"]')"
                                 ".chart.all[0].raw]")
            for a, b in zip(shown, rewards):
                self.assertAlmostEqual(a, b, places=4)
            # Without its server the page stays as it is.
            self.page.errors.clear()
            self.page.js("new Promise(r => setTimeout(r, 2500))")
            self.assertEqual(self.text("#state"), "finished")
            self.page.errors.clear()
        finally:
            run.kill()
            run.wait()

    def said(self, path, start):
        """What a program has written behind `start`, when it has."""
        for _ in range(600):
            for one in path.read_text().splitlines():
                if one.startswith(start):
                    return one[len(start):]
            time.sleep(0.1)
        self.fail(path.read_text())

    def test_long_and_short_runs_are_quick(self):
        for steps in (20, 20_000):
            name = f"of {steps}"
            made_run.write(self.folder / name, steps)
            path = self.report(name)
            size = path.stat().st_size
            self.assertLess(size, MOST_BYTES)
            # The first page of a browser pays for the start of its processes.
            self.open(self.small)
            self.open(path)
            self.page.wait("performance.getEntriesByName('first-contentful-paint').length > 0")
            paint = self.page.js("performance.getEntriesByName('first-contentful-paint')[0]"
                                 ".startTime")
            print(f"browser: {steps} steps: {size / 1e6:.2f} MB, first paint after {paint:.0f} ms")
            self.assertLess(paint, MOST_PAINT_MS)
            self.show("reward")
            self.assertGreater(self.page.js(f"{COLORED}('reward')"), LEAST_PIXELS)
            spent = self.page.js("""(() => { const start = performance.now();
              document.querySelectorAll('.chart').forEach(card => {
                card.chart.isVisible = card.chart.isStale = true; card.chart.drawIfNeeded(); });
              return performance.now() - start; })()""")
            print(f"browser: {steps} steps: all plots drawn anew in {spent:.0f} ms")
            self.assertIn(f"{steps:,} / {steps:,}", self.text('[data-tile="steps"]'))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", default=PROGRAM)
    options, rest = parser.parse_known_args()
    PROGRAM = options.program
    if browser.program() is None:
        print("browser: NOTHING WAS TESTED: there is no chromium (tools/browser.sh installs it)",
              file=sys.stderr)
        sys.exit(77)
    unittest.main(argv=[sys.argv[0], *rest])
