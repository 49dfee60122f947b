# SPDX-License-Identifier: Apache-2.0
"""ms-swift's multi-turn schedulers between the turns that lockstep samples.

What swift/rollout/agent_loop.py does around each turn, for one trajectory at a time: the hooks
on_trajectory_start and on_turn_end, check_finished, step. What a step made of the conversation is
told as messages that follow the turn, or as a turn that goes on (turn_changes.py).
"""

import asyncio
import copy
import dataclasses
import importlib.util
import inspect
import sys

import plugin_loader
import swift_stubs
import tool_functions
import turn_changes
from plugin_errors import PluginError, one_line

PROTOCOL = ("swift.infer_engine.protocol", "swift.llm.infer.protocol", "swift.llm")
MULTI_TURN = ("swift.rollout.multi_turn", "swift.rollout", "swift.plugin.multi_turn",
              "swift.plugin")
GYM = ("swift.rollout.gym_env", "swift.rollout", "swift.plugin.env", "swift.plugin")
# Classes of ms-swift whose run() only joins turns as lockstep does.
PLAIN_RUN = ("MultiTurnScheduler", "RolloutScheduler")


class LazyTokenizer:
    """The model's tokenizer of transformers, read when a scheduler uses it."""

    def __init__(self, model):
        self._model = model
        self._made = None

    def _tokenizer(self):
        if self._made is None:
            if importlib.util.find_spec("transformers") is None:
                raise ImportError("expected transformers for the tokenizer of a scheduler, got "
                                  f"none (install it for {sys.executable})")
            from transformers import AutoTokenizer
            self._made = AutoTokenizer.from_pretrained(self._model)
        return self._made

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._tokenizer(), name)

    def __call__(self, *args, **kwargs):
        return self._tokenizer()(*args, **kwargs)

    def __len__(self):
        return len(self._tokenizer())


def accepted(function, keywords):
    """Those of the keywords that a class takes."""
    parameters = inspect.signature(function).parameters.values()
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        return keywords
    names = {one.name for one in parameters}
    return {name: value for name, value in keywords.items() if name in names}


def make_scheduler(request):
    """The scheduler of this name, made as ms-swift makes it beside a trainer."""
    schedulers = swift_stubs.named("multi_turns", *MULTI_TURN)
    name = request["scheduler"]
    if name not in schedulers:
        raise PluginError(f"expected a scheduler among {', '.join(sorted(schedulers))}, got {name}")
    made = schedulers[name]
    keywords = dict(max_turns=request["max_turns"], tokenizer=LazyTokenizer(request["model"]))
    if request["gym_env"]:
        keywords["gym_env"] = request["gym_env"]
        environments = swift_stubs.named("envs", *GYM)
        if request["gym_env"] not in environments:
            raise PluginError(f"expected an environment among {', '.join(sorted(environments))}, "
                              f"got {request['gym_env']}")
    try:
        scheduler = made(**accepted(made, keywords)) if isinstance(made, type) else made
    except (Exception, SystemExit) as error:
        raise PluginError(f"expected to make the scheduler {name}, got {one_line(error)}") from None
    owner = next((one for one in type(scheduler).__mro__ if "run" in vars(one)), None)
    if owner is not None and owner.__name__ not in PLAIN_RUN:
        raise PluginError(
            f"expected a scheduler that leaves run() alone, got {owner.__name__}.run (lockstep "
            "samples each turn itself, so that it learns from the tokens that were sampled: write "
            "on_trajectory_start, on_turn_end, check_finished and step)")
    return scheduler


@dataclasses.dataclass
class Turns:
    """What has been loaded for the turns of completions. One call at a time."""

    tools: list
    scheduler: object = None

    def __post_init__(self):
        # One for all calls: what a scheduler opens in one must be there in the next.
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.requests = {}
        self.files = plugin_loader.files_of(type(self.scheduler)) if self.scheduler else ()

    def description(self):
        return dict(scheduler=self.scheduler and type(self.scheduler).__name__,
                    envs=sorted(swift_stubs.named("envs", *GYM)) if self.scheduler else [],
                    tools=[tool.description() for tool in self.tools])

    def call(self, request, progress):
        return {"answers": tool_functions.call_all(self.tools, request["calls"], self.loop)}

    def each(self, function, trajectories, progress):
        """An answer of function(trajectory) for each, all of which wait together; {"error"} where
        it has failed."""

        async def guarded(one):
            try:
                return await function(one)
            except (Exception, SystemExit) as error:
                return dict(error=one_line(error, self.files))
            finally:
                progress()

        async def all_of_them():
            return await asyncio.gather(*[guarded(one) for one in trajectories])

        return {"trajectories": self.loop.run_until_complete(all_of_them())}

    def begin(self, request, progress):
        return self.each(self.begin_one, request["trajectories"], progress)

    async def begin_one(self, trajectory):
        infer_request = new_request(trajectory)
        self.requests[trajectory["id"]] = infer_request
        await settled(getattr(self.scheduler, "on_trajectory_start", None), [infer_request])
        return dict(messages=infer_request.messages, tools=infer_request.tools)

    def follow(self, request, progress):
        """All hooks wait together; steps, which are plain functions, come one after the other."""
        trajectories = request["trajectories"]
        ended = self.each(self.end_turn, trajectories, progress)["trajectories"]
        answers = []
        for trajectory, result in zip(trajectories, ended):
            try:
                answers.append(result if "error" in result else self.answer(trajectory, result))
            except (Exception, SystemExit) as error:
                answers.append(dict(error=one_line(error, self.files)))
            progress()
        return {"trajectories": answers}

    async def end_turn(self, trajectory):
        """on_turn_end of a turn whose message stands in the conversation already."""
        infer_request = self.requests[trajectory["id"]]
        infer_request.messages = trajectory["messages"]
        choice = choice_of(trajectory)
        hook = getattr(self.scheduler, "on_turn_end", None)
        result = await settled(hook, infer_request, choice, trajectory["turn"]) or {}
        return dict(result=result, choice=choice)

    def answer(self, trajectory, ended):
        infer_request, turn = self.requests[trajectory["id"]], trajectory["turn"]
        result, choice = ended["result"], ended["choice"]
        infos = dict(result.get("rollout_infos") or {})
        is_over = self.scheduler.check_finished(infer_request, choice, turn)
        is_over = result.get("done", is_over) or trajectory["is_last"]
        if is_over:
            return dict(infos=infos)
        before = copy.deepcopy(infer_request.messages)
        step = as_dictionary(self.scheduler.step(infer_request, choice, turn))
        self.requests[trajectory["id"]] = step["infer_request"]
        infos.update(step.get("rollout_infos") or {})
        # Those of the choice may have been added to.
        change = turn_changes.change_of(before, step["infer_request"].messages,
                                        trajectory["token_ids"], step)
        return dict(infos=infos, **change)

    def end(self, request, progress):
        """Forgets trajectories, and closes what gym_scheduler keeps of those that it has not."""
        close = getattr(self.scheduler, "_close_and_remove", None)

        async def close_one(name):
            infer_request = self.requests.pop(name, None)
            if infer_request is not None:
                await settled(close, infer_request.uuid)
            return {}

        return self.each(close_one, request["trajectories"], progress)


async def settled(function, *arguments):
    """What a hook returns, which may be a coroutine, or none at all."""
    if function is None:
        return None
    result = function(*arguments)
    return await result if inspect.isawaitable(result) else result


def new_request(trajectory):
    """As ms-swift makes it of a row: its columns are data_dict."""
    columns = trajectory["columns"] or {}
    own = columns.get("data_dict") or {}
    data = {name: value for name, value in columns.items()
            if name != "data_dict" and value is not None}
    request_class = swift_stubs.named("RolloutInferRequest", *PROTOCOL)
    keywords = dict(messages=trajectory["messages"], tools=trajectory["tools"],
                    data_dict={**data, **own}, uuid=trajectory["id"],
                    chat_template_kwargs=trajectory["chat_template_kwargs"] or {})
    return request_class(**accepted(request_class, keywords))


def choice_of(trajectory):
    """The turn as an answer of ms-swift's engine."""
    def protocol(name):
        return swift_stubs.named(name, *PROTOCOL)

    calls = [protocol("ChatCompletionMessageToolCall")(function=protocol("Function")(
        name=call["name"], arguments=call["arguments"])) for call in trajectory["calls"]]
    message = protocol("ChatMessage")(role="assistant", content=trajectory["completion"],
                                      tool_calls=calls or None)
    return protocol("ChatCompletionResponseChoice")(
        index=0, message=message, finish_reason=trajectory["finish_reason"], logprobs=None,
        token_ids=list(trajectory["token_ids"]))


def as_dictionary(step):
    """What step() returns: a dictionary, or as older versions have it, a request with or without
    its infos."""
    if isinstance(step, dict):
        return step
    if isinstance(step, tuple):
        return dict(infer_request=step[0], rollout_infos=step[1] if len(step) > 1 else {})
    return dict(infer_request=step)


def load(request):
    """What a request asks for, once its plugins have been imported."""
    tools = [tool_functions.load_tool(text, plugin_loader.named_object)
             for text in request["tools"]]
    scheduler = make_scheduler(request) if request["scheduler"] else None
    return Turns(tools, scheduler)
