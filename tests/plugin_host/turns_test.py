# SPDX-License-Identifier: Apache-2.0
"""Schedulers and environments of ms-swift between the turns of a completion, and tools: the host's
side of it."""

import json
import time
import unittest

from hosts import ARGS, PLUGINS, Host, HostCase

QUESTION = dict(role="user", content="1 + 2?")


class TurnCase(HostCase):

    def load(self, scheduler=None, plugins=("turns_plugin.py",), swift="stub", **turns):
        host = Host(swift)
        self.hosts.append(host)
        asked = dict(scheduler=scheduler, gym_env=None, max_turns=None, model=None, tools=[])
        host.loaded = host.ask(op="load", plugins=[str(PLUGINS / name) for name in plugins],
                               rewards=[], builtin=[], args=ARGS, turns=asked | turns)
        return host

    def started(self, *arguments, columns=({},), **keywords):
        """A host that has begun a trajectory for each row of columns."""
        host = self.load(*arguments, **keywords)
        self.assertNotIn("error", host.loaded)
        begun = host.ask(op="begin", trajectories=[
            dict(id=f"t{i}", messages=[QUESTION], tools=None, columns=row,
                 chat_template_kwargs=None) for i, row in enumerate(columns)])["trajectories"]
        host.begun = begun
        host.messages = {f"t{i}": one.get("messages", [QUESTION]) for i, one in enumerate(begun)}
        return host

    def turn(self, host, *texts, turn=1, finish_reason="stop", is_last=False, calls=()):
        """What follows a turn of each of the first trajectories."""
        trajectories = []
        for i, text in enumerate(texts):
            messages = host.messages[f"t{i}"]
            messages.append(dict(role="assistant", content=text))
            trajectories.append(dict(
                id=f"t{i}", turn=turn, messages=messages, completion=text, calls=list(calls),
                token_ids=[ord(letter) % 7 for letter in text], finish_reason=finish_reason,
                is_last=is_last))
        answer = host.ask(op="follow", trajectories=trajectories)
        while answer and "progress" in answer:
            answer = json.loads(host.process.stdout.readline())
        for i, one in enumerate(answer["trajectories"]):
            host.messages[f"t{i}"] += one.get("messages", [])
        return answer["trajectories"]


class Schedulers(TurnCase):

    def test_messages_follow_until_it_is_finished(self):
        host = self.started("again", max_turns=3)
        self.assertEqual(host.loaded["turns"],
                         dict(scheduler="Again", envs=["count_env", "math_env"], tools=[]))
        self.assertEqual(host.begun, [dict(messages=[QUESTION], tools=None)])
        for number in (1, 2):
            self.assertEqual(self.turn(host, "a", turn=number), [dict(
                infos=dict(asked=number),
                messages=[dict(role="user", content=f"again {number}")])])
        self.assertEqual(self.turn(host, "a", turn=3), [dict(infos={})])

    def test_a_turn_that_was_cut_off_or_may_not_be_followed_is_the_last(self):
        host = self.started("again")
        self.assertEqual(self.turn(host, "a", finish_reason="length"), [dict(infos={})])
        self.assertEqual(self.turn(host, "a", is_last=True), [dict(infos={})])
        self.assertIn("messages", self.turn(host, "a", turn=50)[0])

    def test_hooks_see_and_say_all_that_ms_swifts_do(self):
        columns = [dict(question=f"q{i}", level=None, data_dict=dict(own=i)) for i in range(6)]
        started = time.monotonic()
        host = self.started("hooks", columns=columns, max_turns=9)
        self.assertEqual([one["messages"][0]["content"] for one in host.begun],
                         [f"q{i}" for i in range(6)])
        call = dict(name="f", arguments='{"a": 1}')
        answers = self.turn(host, "done", "on", "finish", "x", "y", "z", calls=[call],
                            finish_reason="length")
        # One after the other they would take 2.4 s.
        self.assertLess(time.monotonic() - started, 2.2)
        infos = dict(score=None, turn=1)
        self.assertEqual(answers[0], dict(infos=infos))
        # What on_turn_end says overrides check_finished, which ends another one.
        goes_on = dict(infos=infos | dict(legacy=True),
                       messages=[dict(role="user", content="next")])
        self.assertEqual(answers[1], goes_on)
        self.assertEqual(answers[2], dict(infos=infos))
        self.assertEqual(answers[3], goes_on)
        words = host.end()[1]
        seen = json.loads(next(line for line in words.splitlines()
                               if line.startswith("seen "))[5:])
        self.assertEqual(seen, dict(
            ids=[ord(letter) % 7 for letter in "done"], finish="length", logprobs=None, uuid="t0",
            data=dict(question="q0", own=0), last=dict(role="assistant", content="done"),
            tools=None, turns=9, calls=[["f", '{"a": 1}']]))

    def test_a_turn_goes_on_by_text_or_by_ids(self):
        for text, continuation in {
                "text": dict(text="text and on"), "cut it": dict(text="cut short"),
                "same": dict(text="same"), "dummy": dict(text="dummy..."),
                "ids": dict(kept=3, ids=[7, 8], text="ids!"),
                "other ids": dict(kept=2, ids=[9], text="other ids"),
        }.items():
            host = self.started("changes")
            self.assertEqual(self.turn(host, text)[0].get("continuation"), continuation, text)

    def test_the_turns_message_may_be_told_in_another_way(self):
        host = self.started("changes", columns=[{}] * 2)
        calls, bare = self.turn(host, "calls", "bare")
        self.assertEqual(calls, dict(
            infos={}, messages=[dict(role="tool", content="5")],
            turn=dict(role="assistant", content="", tool_calls=[dict(name="f")])))
        self.assertEqual(bare, dict(infos={}, messages=[dict(role="user", content="bare")]))
        # The request that a step returns is the trajectory's from then on.
        self.assertEqual(self.turn(host, "same", "data", turn=2)[1]["messages"],
                         [dict(role="user", content="None {}")])

    def test_what_would_change_sampled_tokens_is_refused(self):
        for text, words in {
                "history": "got a history that is another one",
                "shorter": "got a history that is another one",
                "both": "leaves the turn as it was sampled and appends messages",
                "prefill": "expected messages of users and tools behind a turn",
                "learn": "0 on tokens that were not sampled, got 1",
                "forget": "1 on the sampled tokens that are kept, got 0",
                "mask": "response_loss_mask of 4 numbers, one for each of response_token_ids, "
                        "got 1",
        }.items():
            host = self.started("changes", columns=[{}] * 2)
            answers = self.turn(host, text, "same")
            self.assertIn(words, answers[0].get("error", ""), text)
            self.assertIn("continuation", answers[1])

    def test_a_failure_ends_one_trajectory_and_names_its_line(self):
        host = self.started("changes", columns=[{}] * 3)
        answers = self.turn(host, "raise", "exit", "same")
        self.assertRegex(answers[0]["error"],
                         r"turns_plugin.py:\d+: ValueError: no such move$")
        self.assertIn("SystemExit: 3", answers[1]["error"])
        self.assertIn("continuation", answers[2])
        begun = self.started("hooks", columns=[{}, dict(question="q")]).begun
        self.assertIn("KeyError: 'question'", begun[0]["error"])
        self.assertEqual(begun[1]["messages"], [dict(role="user", content="q")])

    def test_it_tells_of_progress(self):
        host = self.started("changes", columns=[{}] * 3)
        host.process.stdin.write(json.dumps(dict(op="follow", trajectories=[
            dict(id=f"t{i}", turn=1, messages=[QUESTION, dict(role="assistant", content="slow")],
                 completion="slow", calls=[], token_ids=[1], finish_reason="stop", is_last=False)
            for i in range(3)])) + "\n\n\n")
        host.process.stdin.flush()
        lines = [json.loads(host.process.stdout.readline()) for _ in range(3)]
        self.assertTrue("progress" in lines[0] and "progress" in lines[1])
        while "progress" in lines[-1]:
            lines.append(json.loads(host.process.stdout.readline()))
        self.assertEqual(len(lines[-1]["trajectories"]), 3)
        # Empty lines ask for nothing.
        self.assertEqual(host.ask(op="end", trajectories=["t0"]), dict(trajectories=[{}]))

    def test_the_tokenizer_says_what_is_missing(self):
        host = self.started("changes", model="/nowhere")
        error = self.turn(host, "tokenizer")[0]["error"]
        self.assertRegex(error, "expected transformers for the tokenizer|nowhere")

    def test_what_is_missing_is_named(self):
        for scheduler, turns, words in [
                ("nobodys", {}, "expected a scheduler among again, changes, fussy, gym_scheduler, "
                 "hooks, math_tip_trick, runs, got nobodys"),
                ("gym_scheduler", dict(gym_env="chess"),
                 "expected an environment among count_env, math_env, got chess"),
                ("runs", {}, "expected a scheduler that leaves run() alone, got Runs.run "
                 "(lockstep samples each turn itself"),
                ("fussy", {}, "expected to make the scheduler fussy, got "),
                ("fussy", {}, "RuntimeError: no licence"),
        ]:
            self.assertIn(words, self.load(scheduler, **turns).loaded.get("error", ""), scheduler)


class Environments(TurnCase):

    def test_gym_scheduler_steps_an_environment(self):
        rows = [dict(length=3), dict(length=5, env_config=dict(name="count_env", system="s"))]
        host = self.started("gym_scheduler", gym_env="count_env", columns=rows)
        self.assertEqual(host.begun[0]["messages"], [dict(role="user", content="3 letters")])
        self.assertEqual(host.begun[1]["messages"], [dict(role="system", content="s"),
                                                     dict(role="user", content="5 letters")])
        first, second = self.turn(host, "four", "three")
        self.assertEqual(first, dict(
            infos=dict(total_reward=-0.25, step_rewards=[-0.25], gym_done=False),
            messages=[dict(role="user", content="not 4")]))
        self.assertEqual(second, dict(
            infos=dict(total_reward=1.0, step_rewards=[1.0], gym_done=True)))
        # As in ms-swift a turn that was cut off is answered: the environment says when it is done.
        self.assertIn("messages", self.turn(host, "four", finish_reason="length")[0])
        # One that is done is closed, and any other turn of it is the last.
        self.assertEqual(self.turn(host, "four", "more"), [
            dict(infos=dict(total_reward=-0.75, step_rewards=[-0.25] * 3, gym_done=False),
                 messages=[dict(role="user", content="not 4")]), dict(infos={})])
        self.assertEqual(host.ask(op="end", trajectories=["t0", "t1", "t9"]),
                         dict(trajectories=[{}, {}, {}]))
        words = host.end()[1]
        self.assertEqual((words.count("closed 5"), words.count("closed 3")), (1, 1))

    def test_an_unknown_environment_ends_its_trajectory(self):
        host = self.started("gym_scheduler",
                            columns=[dict(length=3, env_config=dict(name="chess")),
                                     dict(length=3, env_config=dict(name="count_env"))])
        self.assertIn("Environment 'chess' not found", host.begun[0]["error"])
        self.assertIn("messages", host.begun[1])


class Tools(TurnCase):

    def tools(self, *names, **keywords):
        host = self.load(plugins=(), tools=[name.replace("tools.py", str(PLUGINS / "tools.py"))
                                            for name in names], **keywords)
        return host

    def call(self, host, *calls):
        return host.ask(op="call", calls=[dict(tool=tool, arguments=arguments)
                                          for tool, arguments in calls])["answers"]

    def test_functions_are_called_with_arguments_by_name(self):
        host = self.tools("tools:multiply", "times=tools.py:multiply", "tools:shelf.books",
                          "tools:wait_for", "tools:trouble")
        tools = host.loaded["turns"]["tools"]
        self.assertEqual([(tool["name"], tool["is_async"]) for tool in tools],
                         [("multiply", False), ("times", False), ("books", False),
                          ("wait_for", True), ("trouble", False)])
        self.assertEqual(tools[1]["schema"]["function"]["name"], "times")
        self.assertEqual(
            self.call(host, (0, dict(a=3, b=10 ** 30)), (1, dict(a=2, b=2)),
                      (2, dict(title="x")), (3, dict(city="Rome")), (4, dict(kind="blocks"))),
            [dict(content="3" + "0" * 30), dict(content="4"), dict(content="found x"),
             dict(content="{'city': 'Rome', 'days': 1}"), dict(content="one two")])

    def test_what_fails_is_text_for_the_model(self):
        host = self.tools("tools:multiply", "tools:trouble", "tools:wait_for")
        self.assertEqual(self.call(host, (0, dict(a=1)), (1, dict(kind="raise")),
                                   (1, dict(kind="empty")), (1, dict(kind="exit")),
                                   (2, dict(town="x")), (0, dict(a=1, b=1))),
                         [dict(error="multiply() missing 1 required positional argument: 'b'"),
                          dict(error="'no such key'"), dict(error="ValueError"), dict(error="3"),
                          dict(error="wait_for() got an unexpected keyword argument 'town'"),
                          dict(content="1")])

    def test_asynchronous_ones_wait_together(self):
        host = self.tools("tools:wait_for")
        started = time.monotonic()
        answers = self.call(host, *[(0, dict(city=str(i))) for i in range(8)])
        # One after the other they would take 2.4 s.
        self.assertLess(time.monotonic() - started, 2)
        self.assertEqual(answers[7]["content"], "{'city': '7', 'days': 1}")

    def test_what_is_missing_is_named(self):
        for name, words in [("tools:nothing", "expected nothing in "),
                            ("tools:undocumented", "expected a schema of the tool undocumented"),
                            ("tools:unhinted", "expected a schema of the tool unhinted"),
                            ("tools:Shelf", "expected a function as tools:Shelf, got a class"),
                            ("no_such_module:f", "No module named 'no_such_module'")]:
            self.assertIn(words, self.tools(name).loaded.get("error", ""), name)


if __name__ == "__main__":
    unittest.main()
