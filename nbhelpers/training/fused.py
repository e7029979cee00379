"""The packed forward pass on a GPU: attention that skips what no token sees (FlexAttention), decoder layers compiled.

One group of 8 completions of 512 tokens after a prompt of 450, Gemma-3 4B's shape in 16 bit on one NVIDIA H100
(2026-11-24): forward and backward 0.66 s row by row, 0.51 s packed, 0.23 s packed and compiled, with 57, 32 and 18 GiB
beside the weights.

A decoder layer is compiled anew for each row length, forward and backward, so rows are padded to few lengths.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from nbhelpers.policy import replaced

BLOCK = 128  # tokens; FlexAttention leaves out whole blocks of the (L, L) matrix
STEPS = 8  # lengths between nothing and the longest row
# Tokens whose computing takes as long as compiling: 15 to 30 s, 5 with warm caches, against 50 microseconds for a token
# of padding or one that is not compiled (4B shape, H100).
PAYS = 300_000
# One code serves every length; and inside DDP's forward pass Dynamo would cut a layer where DDP's buckets end, which it
# refuses with FlexAttention in it.
_DYNAMO = {"recompile_limit": 64, "optimize_ddp": False}


class Lengths:
    """Which row lengths are compiled: another one as soon as the time lost without it is what compiling it takes, so
    that compiling never costs more than twice what the best choice in hindsight had cost. It depends on the rows alone
    and not on a clock, so a run repeats.
    """

    def __init__(self, longest: int, *, at_once: bool = False):
        """
        Args:
            longest: tokens of the longest row that can come.
            at_once: compile that length from the start, because uncompiled layers keep more than the memory holds.
        """
        top, step = _blocks(longest), _blocks(-(-longest // STEPS))
        self.ladder = sorted(range(top, 0, -step))
        self.compiled = {self.ladder[-1]} if at_once else set()
        self._lost = dict.fromkeys(self.ladder, 0)

    def pad(self, tokens: int) -> int | None:
        """The length that a row of so many tokens is padded to; None: it goes through layers that are not compiled."""
        taken = min((length for length in self.compiled if length >= tokens), default=None)
        shorter = [length for length in self.ladder if tokens <= length < (taken or self.ladder[-1] + 1)]
        for length in shorter:
            self._lost[length] += tokens if taken is None else taken - length
        if paid := [length for length in shorter if self._lost[length] >= PAYS]:
            taken = paid[0]
            self.compiled.add(taken)
            self._lost |= dict.fromkeys(shorter, 0)  # it would have served those rows as well as any of them
        return taken


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK) * BLOCK


def block_masks(positions: Any, parts: Any, types: Any, window: int) -> dict[str, Any]:
    """`packed.masks` of one row, (1, L) each, as FlexAttention takes it."""
    positions, parts, picture = positions[0].int(), parts[0].int(), types[0] == 1

    def seeing(reach: Any) -> Any:
        """What tokens see that see nothing whose position is not beyond `reach` (L,)."""

        def sees(batch: Any, head: Any, q: Any, k: Any) -> Any:
            within = (parts[k] == 0) | (parts[k] == parts[q])
            earlier = positions[k] <= positions[q]
            return ((within & earlier) | (picture[q] & picture[k])) & (positions[k] > reach[q])

        return _block_mask(sees, positions)

    full = seeing(positions.new_full(positions.shape, -1))
    return {"full_attention": full, "sliding_attention": seeing(positions - window)}


def _block_mask(sees: Any, positions: Any) -> Any:
    """`create_block_mask` for one row, from one comparison of its (L, L) pairs instead of a mapped function."""
    import torch
    from torch.nn.attention.flex_attention import BlockMask

    length = len(positions)
    places, blocks = torch.arange(length, device=positions.device), (length // BLOCK, BLOCK)
    pairs = sees(None, None, places[:, None], places[None, :]).view(*blocks, *blocks)
    some, every = pairs.any(dim=3).any(dim=1), pairs.all(dim=3).all(dim=1)

    def listed(chosen: Any) -> tuple[Any, Any]:
        order = chosen.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
        return chosen.sum(dim=-1, dtype=torch.int32)[None, None], order.int()[None, None]

    lengths = (length, length)
    return BlockMask.from_kv_blocks(
        *listed(some & ~every), *listed(every), BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=lengths
    )


def attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, *, scaling: float, **_: Any) -> tuple:
    """FlexAttention as transformers' attention functions are called: (1, heads, L, width) in, (1, L, heads, width)."""
    from torch.nn.attention.flex_attention import flex_attention

    seen = flex_attention(query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=True)
    return seen.transpose(1, 2).contiguous(), None


@contextlib.contextmanager
def fused_layers(inner: Any) -> Iterator[None]:
    """Inside, the decoder layers of a `Gemma3ForConditionalGeneration` are compiled and attend by `block_masks`."""
    import torch
    from transformers import AttentionInterface

    AttentionInterface.register("packed", attend)
    text, layer = inner.config.get_text_config(), type(inner.base_model.language_model.layers[0])
    usual = text._attn_implementation
    text._attn_implementation = "packed"
    try:
        with replaced(layer, "forward", compiled(layer)), torch._dynamo.config.patch(_DYNAMO):
            yield
    finally:
        text._attn_implementation = usual


@functools.cache
def compiled(layer: type) -> Any:
    """The forward method of a decoder layer's class, compiled for each length of row that comes."""
    import torch

    fast = torch.compile(layer.forward, dynamic=False)

    def forward(self: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        # The first layer's input has no gradient, and would be compiled apart from the others for that.
        if torch.is_grad_enabled() and not hidden_states.requires_grad:
            hidden_states.requires_grad_()
        return fast(self, hidden_states, *args, **kwargs)

    return forward
