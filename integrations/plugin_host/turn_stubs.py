# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for what ms-swift 4.6 samples turns with (swift/rollout/multi_turn.py, gym_env.py).

They do what its classes do, so that schedulers and environments of plugins run where ms-swift is
not installed: the hooks of a trajectory, math_tip_trick, gym_scheduler and math_env.
"""

import asyncio
import copy
import dataclasses
import json
import typing
import uuid as uuids

import builtin_orms


@dataclasses.dataclass
class Function:
    name: str
    arguments: typing.Any = None

    def __post_init__(self):
        if not isinstance(self.arguments, str):
            self.arguments = json.dumps(self.arguments, ensure_ascii=False)
        self.name = self.name.strip()
        self.arguments = self.arguments.strip()


@dataclasses.dataclass
class ChatCompletionMessageToolCall:
    function: Function
    type: str = "function"
    id: str = dataclasses.field(default_factory=lambda: f"toolcall-{uuids.uuid4().hex}")


@dataclasses.dataclass
class ChatMessage:
    role: str
    content: typing.Any
    tool_calls: typing.Optional[list] = None
    reasoning_content: typing.Optional[str] = None


@dataclasses.dataclass
class ChatCompletionResponseChoice:
    index: int
    message: ChatMessage
    finish_reason: typing.Optional[str]
    logprobs: typing.Optional[dict] = None
    token_ids: typing.Optional[list] = None
    routed_experts: typing.Any = None


def remove_response(messages):
    """Takes the last message away if it is the assistant's, and returns its content."""
    if messages and messages[-1]["role"] == "assistant":
        return messages.pop()["content"]
    return None


class RolloutScheduler:
    """The hooks of a trajectory."""

    def __init__(self, infer_engine=None, max_turns=None, *args, **kwargs):
        self.infer_engine = infer_engine
        self._tokenizer = kwargs.get("tokenizer")
        self.max_turns = max_turns

    async def on_trajectory_start(self, requests):
        pass

    async def on_turn_end(self, infer_request, response_choice, current_turn):
        return {}

    async def run(self, infer_request, request_config, **kwargs):
        raise NotImplementedError("lockstep samples each turn itself")

    @property
    def engine(self):
        return self.infer_engine

    @property
    def tokenizer(self):
        return self._tokenizer


class MultiTurnScheduler(RolloutScheduler):
    """What schedulers of plugins derive from."""

    def step(self, infer_request, response_choice, current_turn):
        raise NotImplementedError("expected a step() in a class derived from MultiTurnScheduler")

    def check_finished(self, infer_request, response_choice, current_turn):
        if response_choice.finish_reason == "length":
            return True
        return bool(self.max_turns and current_turn >= self.max_turns)

    @staticmethod
    def _extract_logprobs_from_choice(response_choice):
        if response_choice.logprobs is None:
            return []
        return [item["logprob"] for item in response_choice.logprobs.get("content", [])]


class MathTipsScheduler(MultiTurnScheduler):
    """A wrong answer goes on once from before its end, with a tip."""

    tips_prompt = "But wait... It seems I made a mistake,"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.acc_func = kwargs.get("acc_function") or builtin_orms.MathAccuracy()

    def check_finished(self, infer_request, response_choice, current_turn):
        last = infer_request.messages[-1]["content"]
        if self.tips_prompt in last:
            return True
        if self.acc_func([last], [infer_request.data_dict["solution"]])[0] == 1:
            return True
        return super().check_finished(infer_request, response_choice, current_turn)

    def step(self, infer_request, response_choice, current_turn):
        completion = response_choice.message.content
        ids = list(response_choice.token_ids or [])
        ends = [completion.index(mark) for mark in ("<answer>", "</think>") if mark in completion]
        if ends:
            end = min(ends)
            completion = completion[:end]
            if ids and self.tokenizer is not None:
                for count in range(1, len(ids) + 1):
                    text = self.tokenizer.decode(ids[:count], skip_special_tokens=False)
                    if len(text) >= end:
                        ids = ids[:count]
                        break
        result = {"infer_request": infer_request}
        if ids and self.tokenizer is not None:
            tips = self.tokenizer.encode(self.tips_prompt, add_special_tokens=False)
            result["response_token_ids"] = ids + tips
            result["response_loss_mask"] = [1] * len(ids) + [0] * len(tips)
        completion += self.tips_prompt
        if infer_request.messages[-1]["role"] == "assistant":
            if not infer_request.messages[-1]["content"]:
                infer_request.messages.pop()
            infer_request.messages[-1]["content"] = completion
        else:
            infer_request.messages.append({"role": "assistant", "content": completion})
        return result


class GYMScheduler(MultiTurnScheduler):
    """An environment's observations answer the model, and its rewards add up."""

    def __init__(self, infer_engine=None, max_turns=None, **kwargs):
        super().__init__(infer_engine, max_turns, **kwargs)
        self.gym_env_name = kwargs.get("gym_env")
        self._envs = {}
        self._total_rewards = {}
        self._step_rewards = {}
        self._pending_obs = {}

    async def _close_and_remove(self, uuid):
        env = self._envs.pop(uuid, None)
        if env is not None:
            try:
                await env.close()
            except Exception:
                pass
        for kept in (self._total_rewards, self._step_rewards, self._pending_obs):
            kept.pop(uuid, None)

    async def on_trajectory_start(self, requests):
        await asyncio.gather(*[self._start(request) for request in requests])

    async def _start(self, request):
        await self._close_and_remove(request.uuid)
        env = self._create_env((request.data_dict or {}).get("env_config", {}))
        observation, _, system_message = await env.reset(request)
        messages = [{"role": "system", "content": system_message}] if system_message else []
        request.messages = messages + [{"role": "user", "content": observation}]
        self._envs[request.uuid] = env
        self._total_rewards[request.uuid] = 0.0
        self._step_rewards[request.uuid] = []
        self._pending_obs[request.uuid] = None

    async def on_turn_end(self, infer_request, response_choice, current_turn):
        uuid = infer_request.uuid
        env = self._envs.get(uuid)
        if env is None:
            return {"done": True, "rollout_infos": {}}
        observation, reward, done, _ = await env.step(copy.deepcopy(infer_request.messages))
        self._total_rewards[uuid] += float(reward)
        self._step_rewards[uuid].append(float(reward))
        self._pending_obs[uuid] = None if done else observation
        infos = {"total_reward": self._total_rewards[uuid],
                 "step_rewards": list(self._step_rewards[uuid]), "gym_done": done}
        if done:
            await self._close_and_remove(uuid)
        return {"done": done, "rollout_infos": infos}

    def step(self, infer_request, response_choice, current_turn):
        observation = self._pending_obs.get(infer_request.uuid)
        if observation is not None:
            infer_request.messages.append({"role": "user", "content": observation})
            self._pending_obs[infer_request.uuid] = None
        return {"infer_request": infer_request}

    def _create_env(self, env_config):
        name = env_config.get("name", self.gym_env_name)
        if name not in envs:
            raise ValueError(f"Environment '{name}' not found. Available: {list(envs)}")
        return envs[name](env_config)


class Env:
    """What environments of plugins derive from."""

    def __init__(self, env_config=None):
        self.env_config = env_config

    async def reset(self, config):
        raise NotImplementedError

    async def step(self, action):
        raise NotImplementedError

    async def close(self):
        pass


class SimpleMathEnv(Env):
    """The row's problem, until math_verify finds its solution."""

    tips_prompt = ("The answer is not correct, It seems You made a mistake, you need to recheck "
                   "very carefully.")
    # Word for word, blanks included, since the model reads it.
    system_prompt = (
        "A conversation between User and Assistant.\n"
        "        The user asks a question, and the Assistant solves it.\n"
        "        The assistant first thinks about the reasoning process in the mind and then "
        "provides the user with the answer.\n"
        "        The reasoning process and answer are enclosed within <think> </think> and "
        "<answer> </answer> tags,\n"
        "        respectively, i.e., <think> reasoning process here </think><answer> answer here "
        "</answer>\n        ")

    def __init__(self, env_config=None):
        super().__init__(env_config)
        self.acc_func = builtin_orms.MathAccuracy()
        self.solution = ""

    async def reset(self, config):
        self.solution = config.data_dict["solution"]
        return config.data_dict["problem"], {}, self.system_prompt

    async def step(self, action):
        is_right = self.acc_func([action[-1]["content"]], [self.solution])[0] == 1
        reward = 1.0 if is_right else 0.0
        infos = {"math_reward": reward}
        if is_right:
            infos["stop_reason"] = "Correct"
        return self.tips_prompt, reward, is_right, infos


multi_turns = {"math_tip_trick": MathTipsScheduler, "gym_scheduler": GYMScheduler}
envs = {"math_env": SimpleMathEnv}
NAMES = dict(
    RolloutScheduler=RolloutScheduler, MultiTurnScheduler=MultiTurnScheduler,
    MathTipsScheduler=MathTipsScheduler, GYMScheduler=GYMScheduler, multi_turns=multi_turns,
    Env=Env, SimpleMathEnv=SimpleMathEnv, envs=envs, Function=Function,
    ChatCompletionMessageToolCall=ChatCompletionMessageToolCall, ChatMessage=ChatMessage,
    ChatCompletionResponseChoice=ChatCompletionResponseChoice, remove_response=remove_response)
