# SPDX-License-Identifier: Apache-2.0
"""A plugin of vLLM: routed experts with adapters, in plain torch.

Adapters of routed experts need a kernel that vLLM has for GPUs alone (Triton's): on a CPU it ends
while it builds the model. This is that kernel as a loop over tokens, so that everything around it
is vLLM's own: which names it takes, how it packs a file's pairs, into which slots, with which
scale, and which token has which adapter.
"""

import torch
from vllm.model_executor.layers.fused_moe import unquantized_fused_moe_method as method
from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts
from vllm.model_executor.layers.fused_moe.experts.lora_experts_mixin import LoRAExpertsMixin
from vllm.model_executor.layers.fused_moe.oracle.unquantized import UnquantizedMoeBackend


class PlainExperts(LoRAExpertsMixin, CPUUnquantizedExperts):
    def process_weights_after_loading(self, layer):
        """The weights stay as they were read: nothing is packed."""

    def pair(self, a_stacked, b_stacked, slot, expert, x):
        """B A x of each slice, one behind the other; vLLM has put the scale into B."""
        if slot < 0:
            return 0.0
        return torch.cat([b[slot, expert].float() @ (a[slot, expert].float() @ x)
                          for a, b in zip(a_stacked, b_stacked)])

    def one(self, x, w1, w2, slot, expert):
        lora = self._lora_context
        both = w1[expert].float() @ x
        both = both + self.pair(lora.w13_lora_a_stacked, lora.w13_lora_b_stacked, slot, expert, x)
        gate, up = both.chunk(2)
        inner = torch.nn.functional.silu(gate) * up
        return w2[expert].float() @ inner + self.pair(
            lora.w2_lora_a_stacked, lora.w2_lora_b_stacked, slot, expert, inner)

    def apply(self, output, hidden_states, w1, w2, topk_weights, topk_ids, *_, **__):
        slots = self._lora_context.punica_wrapper.token_lora_indices
        for token, x in enumerate(hidden_states.float()):
            slot = int(slots[token]) if token < len(slots) else -1
            output[token] = sum(
                weight * self.one(x, w1, w2, slot, expert)
                for weight, expert in zip(topk_weights[token], topk_ids[token].tolist()))


def register():
    """vLLM calls this in each of its processes."""
    chosen = method.select_unquantized_moe_backend

    def select(moe_config):
        if moe_config.is_lora_enabled:
            return UnquantizedMoeBackend.CPU, PlainExperts
        return chosen(moe_config=moe_config)

    method.select_unquantized_moe_backend = select
