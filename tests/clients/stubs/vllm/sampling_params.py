# SPDX-License-Identifier: Apache-2.0


class StructuredOutputsParams:
    """Of an engine in the trainer's own process: nothing here."""
