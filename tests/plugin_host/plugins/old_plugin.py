# SPDX-License-Identifier: Apache-2.0
"""A plugin for an ms-swift of 2025, whose modules had other names."""

from swift.llm import PtEngine, RequestConfig, Template, to_device  # noqa: F401
from swift.llm.infer.protocol import ChatCompletionResponse  # noqa: F401
from swift.plugin import ORM, orms, rm_plugins  # noqa: F401
from swift.plugin.multi_turn import MultiTurnScheduler, multi_turns  # noqa: F401
from swift.plugin.orm import Format
from swift.utils import get_logger

logger = get_logger()


class Length(ORM):

    def __call__(self, completions, **kwargs):
        logger.warning("a warning of the plugin")
        return [float(len(text)) for text in completions]


class BothFormats(Format):

    def __call__(self, completions, **kwargs):
        return [2 * value for value in super().__call__(completions, **kwargs)]


orms["length"] = Length
orms["both_formats"] = BothFormats
