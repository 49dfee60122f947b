# SPDX-License-Identifier: Apache-2.0
"""An environment for runs in several turns (docs/multi-turn.md): it answers a turn with its length,
twice, and rewards an even one."""

import json
import sys

for line in sys.stdin:
    said = json.loads(line)
    answer = {}
    if said["op"] == "step":
        size = len(said["text"])
        answer = {"observation": f"That was {size}.", "reward": float(size % 2 == 0),
                  "done": said["turn"] == 3}
    print(json.dumps(answer), flush=True)
