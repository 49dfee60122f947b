# SPDX-License-Identifier: Apache-2.0
"""A plugin of vLLM: the weight-transfer backend `lockstep`, by which a trainer updates weights.

README.md beside this package says how it is installed and what it promises.
"""

BACKEND = "lockstep"
# Counts up when an older and a newer program would misunderstand each other.
PROTOCOL = 1
__version__ = "0.1.0"


def register():
    """vLLM calls this in each of its processes, perhaps more than once."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
    from vllm.v1.worker.gpu_worker import Worker

    from lockstep_vllm import worker

    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(
            BACKEND, "lockstep_vllm.engine", "LockstepEngine")
    worker.install(Worker)
