# SPDX-License-Identifier: Apache-2.0
"""A plugin as ms-swift's users write them: schedulers of turns, and an environment."""

import asyncio
import json
import os
import sys
import time

from swift.infer_engine.protocol import RolloutInferRequest
from swift.rollout.gym_env import Env, envs
from swift.rollout.multi_turn import MultiTurnScheduler, multi_turns


class Again(MultiTurnScheduler):
    """Asks again, until max_turns or a turn that was cut off."""

    def step(self, infer_request: RolloutInferRequest, response_choice, current_turn):
        infer_request.messages.append(dict(role="user", content=f"again {current_turn}"))
        return dict(infer_request=infer_request, rollout_infos=dict(asked=current_turn))


class Hooks(MultiTurnScheduler):
    """Begins with a question of its own, waits, and says when it is done."""

    async def on_trajectory_start(self, requests):
        for request in requests:
            await asyncio.sleep(0.2)
            request.messages = [dict(role="user", content=request.data_dict["question"])]

    async def on_turn_end(self, infer_request, response_choice, current_turn):
        await asyncio.sleep(0.2)
        text = response_choice.message.content
        seen = dict(ids=response_choice.token_ids, finish=response_choice.finish_reason,
                    logprobs=response_choice.logprobs, uuid=infer_request.uuid,
                    data=infer_request.data_dict, last=infer_request.messages[-1],
                    tools=infer_request.tools, turns=self.max_turns,
                    calls=[(call.function.name, call.function.arguments)
                           for call in response_choice.message.tool_calls or []])
        print("seen " + json.dumps(seen))
        infos = dict(score=float("nan"), turn=current_turn)
        if "done" in text or "on" in text:
            return dict(done="done" in text, rollout_infos=infos)
        return dict(rollout_infos=infos)

    def check_finished(self, infer_request, response_choice, current_turn):
        return response_choice.message.content == "finish"

    def step(self, infer_request, response_choice, current_turn):
        infer_request.messages.append(dict(role="user", content="next"))
        return infer_request, dict(legacy=True)


class Changes(MultiTurnScheduler):
    """Does with the conversation what the turn says."""

    def step(self, infer_request, response_choice, current_turn):
        messages, ids = infer_request.messages, response_choice.token_ids
        text = response_choice.message.content
        answer = dict(infer_request=infer_request)
        if text.startswith("text"):
            messages[-1]["content"] += " and on"
        elif text.startswith("cut"):
            messages[-1]["content"] = messages[-1]["content"][:3] + " short"
        elif text.startswith("ids"):
            messages[-1]["content"] += "!"
            # In place, as ms-swift's own example does.
            ids.extend([7, 8])
            answer.update(response_token_ids=ids,
                          response_loss_mask=[1] * (len(ids) - 2) + [0, 0])
        elif text.startswith("other ids"):
            answer.update(response_token_ids=ids[:2] + [9], response_loss_mask=[1, 1, 0])
        elif text.startswith("dummy"):
            messages[-1]["content"] += "..."
            messages.append(dict(role="assistant", content=None))
        elif text.startswith("same"):
            pass
        elif text.startswith("calls"):
            messages[-1] = dict(role="assistant", content="", tool_calls=[dict(name="f")])
            messages.append(dict(role="tool", content="5"))
        elif text.startswith("bare"):
            messages.append(dict(role="user", content="bare"))
            return RolloutInferRequest(messages=messages, data_dict=infer_request.data_dict)
        elif text.startswith("data"):
            seen = f"{infer_request.uuid} {infer_request.data_dict}"
            messages.append(dict(role="user", content=seen))
        elif text.startswith("history"):
            messages[0] = dict(role="user", content="another question")
        elif text.startswith("shorter"):
            del messages[1:]
        elif text.startswith("both"):
            messages[-1]["content"] = "another answer"
            messages.append(dict(role="user", content="next"))
        elif text.startswith("prefill"):
            messages.extend([dict(role="user", content="a"), dict(role="assistant", content="b")])
        elif text.startswith("learn"):
            answer.update(response_token_ids=ids + [7], response_loss_mask=[1] * (len(ids) + 1))
        elif text.startswith("forget"):
            answer.update(response_token_ids=ids, response_loss_mask=[0] * len(ids))
        elif text.startswith("mask"):
            answer.update(response_token_ids=ids, response_loss_mask=[1])
        elif text.startswith("raise"):
            raise ValueError("no such move")
        elif text.startswith("exit"):
            sys.exit(3)
        elif text.startswith("die"):
            os._exit(4)
        elif text.startswith("hang"):
            time.sleep(1000)
        elif text.startswith("slow"):
            time.sleep(1.2)
            messages.append(dict(role="user", content="late"))
        elif text.startswith("tokenizer"):
            messages.append(dict(role="user", content=str(self.tokenizer.encode("a"))))
        return answer


class Runs(MultiTurnScheduler):

    async def run(self, infer_request, request_config, **kwargs):
        return None


class Fussy(MultiTurnScheduler):

    def __init__(self, max_turns=None):
        raise RuntimeError("no licence")


class CountEnv(Env):
    """The answer is how long the text is."""

    async def reset(self, config):
        self.length = config.data_dict["length"]
        return f"{self.length} letters", {}, self.env_config.get("system", "")

    async def step(self, action):
        found = len(action[-1]["content"])
        return f"not {found}", 1.0 if found == self.length else -0.25, found == self.length, {}

    async def close(self):
        print(f"closed {self.length}")


multi_turns.update(again=Again, hooks=Hooks, changes=Changes, runs=Runs, fussy=Fussy)
envs["count_env"] = CountEnv
