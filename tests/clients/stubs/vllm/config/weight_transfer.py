# SPDX-License-Identifier: Apache-2.0


class WeightTransferConfig:
    """Named in signatures only."""
