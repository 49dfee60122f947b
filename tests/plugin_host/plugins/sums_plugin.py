# SPDX-License-Identifier: Apache-2.0
"""A plugin as ms-swift's documentation has them: rewards, asynchronous ones, schedulers, models."""

import asyncio
import json
import os
import sys
import time
from copy import deepcopy
from typing import Dict, List, Union

from swift.infer_engine import RequestConfig, TransformersEngine
from swift.infer_engine.protocol import (ChatCompletionResponse, ChatCompletionResponseChoice,
                                         RolloutInferRequest)
from swift.rewards import ORM, AsyncORM, orms, rm_plugins
from swift.rewards.rm_plugin import DefaultRMPlugin
from swift.rollout.gym_env import Env, envs
from swift.rollout.multi_turn import MultiTurnScheduler, multi_turns
from swift.template import Template
from swift.utils import get_logger, to_device

logger = get_logger()


class RightDigit(ORM):

    def __call__(self, completions, solution, **kwargs) -> List[float]:
        print("a plugin may print", completions[0])
        return [float(solution[i] in completions[i]) for i in range(len(completions))]


class EverythingSeen(ORM):
    """Prints what came: tests read it on stderr."""

    def __call__(self, completions, messages, trainer_state, level, **kwargs):
        seen = dict(completions=completions, messages=messages, level=level,
                    step=trainer_state.global_step, max_steps=trainer_state.max_steps,
                    keys=sorted(kwargs), prompt_id=len(set(kwargs["prompt_id"])),
                    request_id=len(set(kwargs["request_id"])),
                    truncated=kwargs["is_truncated"], ids=kwargs["response_token_ids"],
                    longest=self.args.soft_max_length)
        print("seen " + json.dumps(seen))
        return [0.0] * len(completions)


class Slow(AsyncORM):

    async def __call__(self, completions, **kwargs):

        async def one(text):
            await asyncio.sleep(0.3)
            return len(text)

        return list(await asyncio.gather(*[one(text) for text in completions]))


class Odd(ORM):
    """By the text of a completion: every kind of value and of failure."""

    def __call__(self, completions, **kwargs):
        text = completions[0]
        if text == "none":
            return [None, float("nan")]
        if text == "infinite":
            return [float("inf"), 0]
        if text == "short":
            return [1.0]
        if text == "nothing":
            return None
        if text == "words":
            return ["one", "two"]
        if text == "exit":
            sys.exit(3)
        if text == "die":
            os._exit(4)
        if text == "hang":
            time.sleep(1000)
        return self.deeper(text)

    def deeper(self, text):
        return [json.loads(text), 0.5]


class MyFormat(ORM):

    def __call__(self, completions, **kwargs):
        return [0.25 for _ in completions]


class NeedsSwift(ORM):

    def __init__(self, args=None, **kwargs):
        super().__init__(args)
        self.engine = TransformersEngine("model")


orms["right_digit"] = RightDigit
orms["everything_seen"] = EverythingSeen
orms["slow"] = Slow
orms["odd"] = Odd
orms["needs_swift"] = NeedsSwift
orms["format"] = MyFormat


class MyRMPlugin(DefaultRMPlugin):

    def __call__(self, inputs, **kwargs):
        return to_device([deepcopy(one) for one in inputs], "cpu")


rm_plugins["my_rm"] = MyRMPlugin


class MyScheduler(MultiTurnScheduler):

    def check_finished(self, infer_request: "RolloutInferRequest",
                       response_choice: ChatCompletionResponseChoice, current_turn: int) -> bool:
        return super().check_finished(infer_request, response_choice, current_turn)

    def step(self, infer_request: RolloutInferRequest, response_choice, current_turn) -> Dict:
        return {"infer_request": infer_request}


multi_turns["my_scheduler"] = MyScheduler


class MyEnv(Env):
    template: Template
    config: Union[RequestConfig, ChatCompletionResponse]


envs["my_env"] = MyEnv
