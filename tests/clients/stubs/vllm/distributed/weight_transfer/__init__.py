# SPDX-License-Identifier: Apache-2.0
"""base.py and clients.py are vLLM's own, where tools/python.sh has put them."""

import pathlib

__path__ += [str(folder / "vllm/distributed/weight_transfer")
             for folder in pathlib.Path(__file__).resolve().parents[6].glob(".deps/vllm_client")]
