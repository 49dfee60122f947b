# SPDX-License-Identifier: Apache-2.0
"""Why weights are not taken, as the status reports it."""

LONGEST = 2000


def plain(text):
    """The text as every reader of JSON or msgpack takes it, and of bounded length."""
    text = str(text).encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


class Refused(Exception):
    """Weights that are not taken: a code for programs, where, and what was expected and found."""

    def __init__(self, code, where, message):
        super().__init__(f"{where}: {message}")
        self.code, self.where, self.message = code, where, message

    def facts(self):
        return {"code": self.code, "where": plain(self.where), "message": plain(self.message)}


def facts_of(error):
    """What the status says of any exception."""
    if isinstance(error, Refused):
        return error.facts()
    return Refused("internal", "lockstep_vllm", f"{type(error).__name__}: {error}").facts()
