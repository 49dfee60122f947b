# SPDX-License-Identifier: Apache-2.0
"""The host of reward plugins, asked as lockstep asks it. It runs with Python's standard library
alone."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from hosts import ARGS, HOST, PLUGINS, Host, HostCase


def completion(text="<answer>3</answer>", **changes):
    made = dict(completion=text, completion_messages=[dict(role="assistant", content=text)],
                prompt="rendered", prompt_messages=[dict(role="user", content="1 + 2?")],
                text_prompt=None, prompt_id="prompt-0", request_id="request-0",
                finish_reason="stop", token_ids=[4, 5, 6], tools=None,
                columns=dict(solution="3"), step=2, max_steps=4)
    return made | changes


class HostTest(HostCase):

    def host(self, rewards, plugins=(), swift="stub", **keywords):
        host = Host(swift)
        self.hosts.append(host)
        loaded = host.load(rewards, plugins, **keywords)
        self.assertNotIn("error", loaded)
        host.loaded = loaded
        return host

    def values(self, host, *groups, **keywords):
        answer = host.score(*groups, **keywords)
        self.assertIn("groups", answer)
        return [group.get("values", group.get("error")) for group in answer["groups"]]


class SwiftPlugins(HostTest):

    def test_a_plugin_registers_its_rewards(self):
        host = self.host(["right_digit", "accuracy"], ["sums_plugin.py"])
        self.assertEqual(host.loaded["known"],
                         ["everything_seen", "format", "needs_swift", "odd", "right_digit", "slow"])
        self.assertEqual(host.loaded["rewards"],
                         [dict(name="right_digit", class_name="RightDigit", is_async=False), None])
        self.assertEqual(self.values(host, [completion(), completion("4")], [completion("33")]),
                         [[1.0, 0.0], [1.0]])

    def test_what_it_prints_is_no_part_of_the_protocol(self):
        host = self.host(["right_digit"], ["sums_plugin.py"])
        self.assertEqual(self.values(host, [completion('{"groups": []}')]), [[0.0]])
        status, words = host.end()
        self.assertEqual(status, 0)
        self.assertIn('a plugin may print {"groups": []}', words)

    def test_it_sees_all_that_is_known(self):
        host = self.host(["everything_seen"], ["sums_plugin.py"])
        first = completion("a", columns=dict(level=1, solution="3"), tools=[dict(name="t")])
        second = completion("b", columns=dict(solution="3"), request_id="request-1",
                            finish_reason="length")
        self.values(host, [first, second])
        words = host.end()[1]
        seen = json.loads(words[words.index("seen ") + 5:])
        self.assertEqual(seen["completions"], ["a", "b"])
        self.assertEqual(seen["messages"][1], [dict(role="user", content="1 + 2?"),
                                               dict(role="assistant", content="b")])
        self.assertEqual(seen["level"], [1, None])
        self.assertEqual((seen["step"], seen["max_steps"]), (2, 4))
        self.assertEqual(seen["keys"], ["finish_reason", "is_truncated", "prompt_id", "request_id",
                                        "response_token_ids", "rollout_infos", "solution", "tools"])
        self.assertEqual((seen["prompt_id"], seen["request_id"]), (1, 2))
        self.assertEqual(seen["truncated"], [False, True])
        self.assertEqual(seen["ids"], [[4, 5, 6]] * 2)
        # As ms-swift settles it where the flag is unset.
        self.assertEqual(seen["longest"], 64)

    def test_asynchronous_ones_wait_for_all_groups_at_once(self):
        host = self.host(["slow"], ["sums_plugin.py"])
        self.assertTrue(host.loaded["rewards"][0]["is_async"])
        started = time.monotonic()
        groups = [[completion("a" * i), completion("bb")] for i in range(8)]
        self.assertEqual(self.values(host, *groups), [[i, 2] for i in range(8)])
        # One after the other they would take 2.4 s.
        self.assertLess(time.monotonic() - started, 2)

    def test_values_are_numbers_or_none(self):
        host = self.host(["odd"], ["sums_plugin.py"])
        pair = [completion("none"), completion()]
        self.assertEqual(self.values(host, pair), [[None, None]])
        self.assertEqual(self.values(host, [completion("7"), completion()]), [[7.0, 0.5]])

    def test_a_failure_names_file_and_line(self):
        host = self.host(["odd"], ["sums_plugin.py"])
        source = (PLUGINS / "sums_plugin.py").read_text().splitlines()
        line = 1 + source.index("        return [json.loads(text), 0.5]")
        for text, words in {
                "no number": f"{PLUGINS}/sums_plugin.py:{line}: JSONDecodeError: Expecting value",
                "infinite": "ValueError: expected a finite number, got inf",
                "short": "ValueError: expected a list of 2 numbers, one a completion, got 1",
                "nothing": "TypeError: expected a list of 2 numbers, got NoneType",
                "words": "ValueError: could not convert string to float: 'one'",
                "exit": "SystemExit: 3",
        }.items():
            answers = self.values(host, [completion(text), completion()],
                                  [completion("1"), completion()])
            self.assertIn(words, answers[0], text)
            self.assertNotIn("\n", answers[0])
            # The next group is another call.
            self.assertEqual(answers[1], [1.0, 0.5])

    def test_a_builtin_name_is_the_plugins_where_it_registers_it(self):
        host = self.host(["format", "accuracy"], ["sums_plugin.py"])
        self.assertEqual(host.loaded["rewards"],
                         [dict(name="format", class_name="MyFormat", is_async=False), None])
        self.assertEqual(self.values(host, [completion()]), [[0.25]])
        host = self.host(["format", "accuracy"], ["old_plugin.py"])
        self.assertEqual(host.loaded["rewards"], [None, None])

    def test_older_names_of_modules_work(self):
        host = self.host(["length", "both_formats"], ["old_plugin.py"])
        right = completion("<think></think><answer></answer>")
        self.assertEqual(self.values(host, [completion("abc")]), [[3.0]])
        self.assertEqual(self.values(host, [right, completion()], reward=1), [[2.0, 0.0]])
        self.assertIn("a warning of the plugin", host.end()[1])

    def test_several_plugins_share_a_registry(self):
        host = self.host(["length", "right_digit"], ["old_plugin.py", "sums_plugin.py"])
        self.assertEqual(self.values(host, [completion()], reward=1), [[1.0]])

    def test_what_is_missing_is_named(self):
        for rewards, plugins, words in [
                (["needs_swift"], ["sums_plugin.py"],
                 "expected to make NeedsSwift(args=...), got " + str(PLUGINS / "sums_plugin.py")),
                (["needs_swift"], ["sums_plugin.py"],
                 "expected ms-swift for TransformersEngine, got lockstep's stand-in"),
                (["x"], ["broken_plugin.py"], "broken_plugin.py:6: ModuleNotFoundError: No module "
                 "named 'no_such_package_of_all' (install it for "),
                (["x"], ["nowhere.py"], "expected a file of Python, got none: "),
                (["trl_rewards:nothing"], [], "expected nothing in "),
                (["trl_rewards:Namespace.not_callable"], [], "expected a function or a class"),
                (["no_module_of_all:f"], [], "No module named 'no_module_of_all'"),
        ]:
            host = Host()
            self.hosts.append(host)
            self.assertIn(words, host.load(rewards, plugins)["error"])

    def test_unknown_names_are_left_to_lockstep(self):
        self.assertEqual(self.host(["nobodys"], ["old_plugin.py"]).loaded["rewards"], [None])

    def test_another_package_called_swift_is_no_ms_swift(self):
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "swift").mkdir()
            (pathlib.Path(folder) / "swift" / "__init__.py").write_text("raise SystemExit(9)\n")
            os.environ["PYTHONPATH"] = folder
            try:
                host = self.host(["length"], ["old_plugin.py"], swift="auto")
            finally:
                del os.environ["PYTHONPATH"]
        self.assertEqual(host.loaded["swift"], "stub")

    def test_an_ms_swift_that_does_not_import_gives_way(self):
        with tempfile.TemporaryDirectory() as folder:
            rewards = pathlib.Path(folder) / "swift" / "rewards"
            rewards.mkdir(parents=True)
            (rewards.parent / "__init__.py").write_text("__version__ = '4.9'\n")
            (rewards / "__init__.py").write_text("ORM = object\norms = {}\n")
            os.environ["PYTHONPATH"] = folder
            try:
                host = self.host(["length"], ["old_plugin.py"], swift="auto")
                real = Host("auto")
                self.hosts.append(real)
                broken = real.load(["x"], ["broken_plugin.py"])
            finally:
                del os.environ["PYTHONPATH"]
        self.assertEqual(host.loaded["swift"], "stub")
        self.assertIn("No module named 'swift.llm'", host.loaded["problem"])
        self.assertEqual(self.values(host, [completion("ab")]), [[2.0]])
        # What the stand-ins cannot help is told as it was.
        self.assertIn("no_such_package_of_all", broken["error"])


class TrlFunctions(HostTest):

    def test_the_documentations_functions_run(self):
        text = dict(text_prompt="Problem: 1 + 2", columns=dict(ground_truth="3", task="math"))
        right, wrong = completion("\\boxed{3}", **text), completion("", **text)
        for name, expected in [("longer_ids", [3.0, 3.0]), ("longer_text", [9.0, 0.0]),
                               ("boxed", [1.0, 0.0]), ("math_reward_func", [-1.0, -1.0]),
                               ("async_reward_func", [1.0, 0.0]), ("growing", [0.5, 0.5]),
                               ("logging_reward_func", [1.0, 0.0])]:
            host = self.host([f"trl_rewards:{name}"])
            described = host.loaded["rewards"][0]
            self.assertEqual((described["name"], described["class_name"]), (name, name))
            self.assertEqual(self.values(host, [right, wrong]), [expected], name)
        other = completion("x", text_prompt="p", columns=dict(task="code"))
        host = self.host(["trl_rewards:math_reward_func"])
        self.assertEqual(self.values(host, [other]), [[None]])

    def test_conversations_are_lists_of_messages(self):
        host = self.host([f"mine={PLUGINS}/trl_rewards.py:format_reward_func"])
        self.assertEqual(host.loaded["rewards"][0]["name"], "mine")
        good = completion("<think>a</think><answer>b</answer>")
        self.assertEqual(self.values(host, [good, completion("b")]), [[1.0, 0.0]])

    def test_they_log_columns_and_metrics(self):
        host = self.host(["trl_rewards:logging_reward_func"])
        text = dict(text_prompt="p", columns=dict(ground_truth="3"))
        answer = host.score([completion("\\boxed{3}", **text), completion("b", **text)])
        self.assertEqual(answer["groups"][0]["extra"],
                         dict(golden_answer=["3", "3"], extracted_answer=["3", "[none]"]))
        self.assertEqual(answer["groups"][0]["metrics"], dict(accuracy=[0.5]))

    def test_a_missing_column_is_named(self):
        host = self.host(["trl_rewards:boxed"])
        self.assertIn("missing 1 required positional argument: 'ground_truth'",
                      self.values(host, [completion()])[0])


class Life(HostTest):

    def test_it_ends_with_its_input(self):
        self.assertEqual(self.host(["length"], ["old_plugin.py"]).end()[0], 0)

    def test_a_plugin_that_ends_the_process_ends_it(self):
        host = self.host(["odd"], ["sums_plugin.py"])
        self.assertIsNone(host.score([completion("die"), completion()]))
        self.assertEqual(host.process.wait(timeout=20), 4)

    def test_it_ends_with_its_parent_in_the_middle_of_a_call(self):
        request = json.dumps(dict(op="score", reward=0, groups=[[completion("hang")] * 2],
                                  state={}))
        load = json.dumps(dict(op="load", plugins=[str(PLUGINS / "sums_plugin.py")],
                               rewards=["odd"], builtin=[], args=ARGS))
        # A parent that starts a host in a group of its own, tells its number and waits.
        script = (
            "import subprocess, sys, time\n"
            "host = subprocess.Popen(sys.argv[1:4], stdin=subprocess.PIPE, text=True,"
            " stdout=subprocess.PIPE, start_new_session=True)\n"
            "host.stdin.write(sys.argv[4] + '\\n' + sys.argv[5] + '\\n'); host.stdin.flush()\n"
            "host.stdout.readline()\n"
            "print(host.pid, flush=True)\n"
            "time.sleep(1000)\n")
        parent = subprocess.Popen([sys.executable, "-c", script, sys.executable, str(HOST),
                                   "--swift=stub", load, request],
                                  stdout=subprocess.PIPE, text=True)
        number = int(parent.stdout.readline())
        os.kill(number, 0)
        parent.kill()
        parent.wait()
        parent.stdout.close()
        for _ in range(200):
            # A zombie that nobody has reaped is gone, too.
            try:
                state = pathlib.Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                return
            if state[0] == "Z":
                return
            time.sleep(0.1)
        os.killpg(number, signal.SIGKILL)
        self.fail("the host lives on")


if __name__ == "__main__":
    unittest.main()
