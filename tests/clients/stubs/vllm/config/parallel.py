# SPDX-License-Identifier: Apache-2.0


class ParallelConfig:
    """Named in signatures only."""
