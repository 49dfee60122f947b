# SPDX-License-Identifier: Apache-2.0
"""No vLLM, but what clients import of it before they speak to a server over HTTP.

TRL's and ms-swift's clients import parts of vLLM that only their transfers between GPUs use. Those
parts are empty here, so that a test fails if a client would call one of them. What vLLM's own
client for weights is made of is read from a wheel of vLLM (distributed/weight_transfer).
"""

__version__ = "0.31.0"


class LLM:
    """An engine in the trainer's own process: nothing here."""


class RequestOutput:
    """Of such an engine."""


class SamplingParams:
    """Of such an engine."""
