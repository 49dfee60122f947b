# SPDX-License-Identifier: Apache-2.0
"""Children that are measured: time, peak memory, and whether other processes disturbed them."""

import json
import os
import subprocess
import sys
import threading
import time

OTHERS_LIMIT = 0.05


def machine_busy_seconds():
    """Processor seconds that all processes have used, from the first line of /proc/stat."""
    fields = open("/proc/stat").readline().split()[1:]
    idle = int(fields[3]) + int(fields[4])
    return (sum(map(int, fields[:8])) - idle) / os.sysconf("SC_CLK_TCK")


class Run:
    """A finished child: its output, wall and processor seconds, peak memory, and the disturbance
    (share of the machine that other processes used meanwhile)."""

    def __init__(self, words, environment, watched=None):
        busy, start = machine_busy_seconds(), time.perf_counter()
        self.stamps = []
        child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                 env=os.environ | environment)
        stop = threading.Event()
        if watched is not None:
            watcher = threading.Thread(target=self.watch, args=(watched, stop))
            watcher.start()
        errors = []
        reader = threading.Thread(target=lambda: errors.append(child.stderr.read()))
        reader.start()
        self.out = child.stdout.read()
        reader.join()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        self.wall = time.perf_counter() - start
        stop.set()
        if watched is not None:
            watcher.join()
        if child.returncode != 0:
            sys.exit(f"{' '.join(map(str, words))}: exit {child.returncode}\n{errors[0][-2000:]}")
        self.peak_mb = usage.ru_maxrss / 1024
        own = usage.ru_utime + usage.ru_stime
        others = machine_busy_seconds() - busy - own
        self.others = max(0.0, others) / (self.wall * os.cpu_count())

    def watch(self, path, stop):
        """Notes when each line of a growing file appears."""
        seen = 0
        while not stop.is_set():
            if path.exists():
                count = path.read_bytes().count(b"\n")
                self.stamps += [time.perf_counter()] * (count - seen)
                seen = count
            time.sleep(0.005)


def append_lines(results, path):
    """Appends results to a file of JSON lines, if there is one."""
    if path:
        with open(path, "a") as file:
            file.writelines(json.dumps(result) + "\n" for result in results)


def undisturbed(measure, tries):
    """`measure` until it ran without others: its result and False; the last try counts if none did,
    with True. `measure` returns a result and its runs."""
    for _ in range(tries):
        result, runs = measure()
        others = max(run.others for run in runs)
        if others <= OTHERS_LIMIT:
            return result, False
        print(f"    discarded: others used {100 * others:.0f} % of the machine", flush=True)
    return result, True
