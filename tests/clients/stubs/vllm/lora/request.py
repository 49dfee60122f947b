# SPDX-License-Identifier: Apache-2.0


class LoRARequest:
    """A base class of ms-swift's adapters on GPUs: nothing here."""
