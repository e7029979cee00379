"""A group as one row: its prompt with the picture once, and after it each completion as if it were alone.

    [ prompt | completion 1 | completion 2 | ... ]      positions: 0 ... P-1 | P P+1 ... | P P+1 ... | ...

A completion's token sees the whole prompt and what stands before it in its own completion. Only real tokens go through
the model: a row is padded at its end alone, to the longest of the few rows that go together. One forward pass and one
backward pass, without a cache; log-probs and gradients are those of the rows apart but for float noise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nbhelpers.policy import Policy, merged_adapter
from nbhelpers.training.fused import Lengths, block_masks, fused_layers
from nbhelpers.training.log_softmax import chosen_log_probs
from nbhelpers.training.vision_cache import looked_at

ROWS_AT_ONCE = 4  # on a CPU: what they make stays in a core's cache, and rows of like length need little padding
TOKENS_AT_ONCE = 4096  # on a GPU, where they keep it busy
PICTURES = ("pixel_values", "features")
PACKED = ("input_ids", "attention_mask", "token_type_ids", "completion_ids", "completion_mask")


def packs(policy: Policy) -> bool:
    """Whether training takes its log-probs from here: Gemma-3 as transformers has it.

    Unsloth puts a forward pass of its own in place, which takes no masks, and its trainer a loss of its own.
    """
    text = policy.model.config.get_text_config()
    return policy.backend == "transformers" and text.model_type == "gemma3_text" and text._attn_implementation == "sdpa"


@dataclass(frozen=True)
class Row:
    """A group's tokens in a row of length L.

    Attributes:
        ids, positions, parts, types: (L,) token ids; RoPE positions; 0 for the prompt and 1, 2, ... for the
            completions; 1 for a picture's tokens, as Gemma-3's `token_type_ids` say.
        before: (tokens,) for each token of the completions, the place whose hidden state predicts it.
        after: those tokens.
        where: (2, tokens) where they stand among the completions: row and column.
        picture: the row of `pixel_values` that belongs to the group.
    """

    ids: Any
    positions: Any
    parts: Any
    types: Any
    before: Any
    after: Any
    where: Any
    picture: int


def pack(batch: dict[str, Any], members: list[int]) -> Row:
    """The rows `members` of a batch, which share prompt and picture, as one row.

    Args:
        batch: `PACKED` in main memory: tokens of N rows, prompts padded on the left and completions on the right, and
            `completion_ids` and `completion_mask`, (N, T), their ends.
    """
    import torch

    first, width = members[0], batch["input_ids"].shape[1] - batch["completion_ids"].shape[1]
    is_prompt = batch["attention_mask"][first, :width].bool()
    prompt, types = (batch[name][first, :width][is_prompt] for name in ("input_ids", "token_type_ids"))
    answers = [batch["completion_ids"][row][batch["completion_mask"][row].bool()] for row in members]
    parts, length = [prompt, *answers], len(prompt)
    lengths = torch.tensor([len(part) for part in parts], device=prompt.device)
    starts = lengths.cumsum(0) - lengths
    places = torch.arange(int(lengths.sum()), device=prompt.device)
    numbers = torch.arange(len(parts), device=prompt.device).repeat_interleave(lengths)
    own = places - starts[numbers]  # place within the part
    answered = numbers > 0
    return Row(
        ids=torch.cat(parts),
        positions=own + length * answered,
        parts=numbers,
        types=torch.cat([types, types.new_zeros(int(answered.sum()))]),
        before=torch.where(own == 0, length - 1, places - 1)[answered],
        after=torch.cat(answers),
        where=torch.stack([torch.tensor(members, device=prompt.device)[numbers[answered] - 1], own[answered]]),
        picture=first,
    )


def masks(positions: Any, parts: Any, types: Any, window: int) -> dict[str, Any]:
    """What each token sees, (rows, 1, L, L), by Gemma-3's two types of layers, from (rows, L) of `Row` padded with
    part -1.

    As `create_masks_for_vision_model` of transformers has it: a token sees what stands before it, a picture's tokens
    see one another, and in a sliding layer nothing beyond the window is seen.
    """
    is_prompt, same_part = parts[:, None, :] == 0, parts[:, None, :] == parts[:, :, None]
    earlier = positions[:, None, :] <= positions[:, :, None]
    picture = (types[:, None, :] == 1) & (types[:, :, None] == 1)
    sees = ((is_prompt | same_part) & earlier) | picture
    near = positions[:, :, None] - positions[:, None, :] < window
    return {"full_attention": sees[:, None], "sliding_attention": (sees & near)[:, None]}


def packed_log_probs(
    model: Any, batch: dict[str, Any], groups: Any, learning: Any, temperature: float, *, known: Any = None,
    lengths: Lengths | None = None,
) -> tuple[Any, Any]:  # fmt: skip
    """Log-probs and entropies of N completions, (N, T), 0 where there is no token.

    On a GPU nothing here waits for it where what rows are put together from lies in main memory already.

    Args:
        model: Gemma-3 with vision, with or without peft's wrapper, sdpa attention.
        batch: as for `pack`, with `pixel_values`, a picture a row, and maybe `features`, what the frozen vision tower
            makes of each.
        groups: (N,) the same number for rows of one prompt.
        learning: (N,) a group with no True gets no gradient: its log-probs are all that is asked for.
        known: (N, T) the sampler's log-probs: rows that do not learn do not go through the model but get these, and as
            entropies their negative, whose mean is the entropy's but for chance.
        lengths: to which rows are padded for `fused`; None where nothing is compiled.
    """
    import torch

    device, mask = batch["pixel_values"].device, batch["completion_mask"]
    log_probs = torch.zeros(mask.shape, dtype=torch.float32, device=device)
    scored = torch.ones_like(learning)
    if known is not None:
        scored, told = learning, known.float().nan_to_num() * _moved(mask, device)
        log_probs = told.masked_fill(_moved(scored, device)[:, None], 0.0)
    entropies = -log_probs
    # Rows are put together in main memory: on a GPU every look at a number would wait for all that is under way.
    here = {name: batch[name].cpu() for name in PACKED}
    groups, scored, learning = groups.cpu(), scored.cpu(), learning.cpu()
    members = [((groups == group) & scored).nonzero()[:, 0].tolist() for group in groups[scored].unique().tolist()]
    wanted = [bool(learning[rows].any()) for rows in members]
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    recomputes = inner.is_gradient_checkpointing  # in the backward pass, when the adapter is apart again
    with contextlib.nullcontext() if lengths or recomputes else merged_adapter(model):
        for learns in (False, True):
            rows = [pack(here, group) for group, gets in zip(members, wanted, strict=True) if gets is learns]
            rows.sort(key=lambda row: len(row.ids))
            for some, fused in _batches(rows, lengths if learns else None, on_gpu=log_probs.is_cuda):
                with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
                    chosen, entropy = _score(inner, some, batch, temperature, fused)
                where = tuple(_moved(torch.cat([row.where for row in some], dim=1), device))
                log_probs = log_probs.index_put(where, chosen)
                entropies[where] = entropy
    return log_probs, entropies


def _batches(rows: list[Row], lengths: Lengths | None, *, on_gpu: bool) -> Iterator[tuple[list[Row], int | None]]:
    """Rows that go through together, and the length that one is padded to where it is compiled."""
    waiting: list[Row] = []
    for row in rows:
        if lengths and (fused := lengths.pad(len(row.ids))):
            yield [row], fused
            continue
        waiting.append(row)
        if len(waiting) >= (TOKENS_AT_ONCE // len(row.ids) if on_gpu else ROWS_AT_ONCE):
            yield waiting, None
            waiting = []
    if waiting:
        yield waiting, None


def _moved(values: Any, device: Any) -> Any:
    """`values` where they are computed with, without waiting for what is under way there."""
    return values.to(device, non_blocking=True)


def _score(inner: Any, rows: list[Row], batch: dict, temperature: float, fused: int | None) -> tuple[Any, Any]:
    """Log-prob and entropy of every token of the completions in a few rows, in their order."""
    import torch
    from torch.nn.functional import pad

    length, device = fused or max(len(row.ids) for row in rows), batch["pixel_values"].device
    seen = {name: torch.stack([batch[name][row.picture] for row in rows]) for name in PICTURES if name in batch}

    def padded(name: str, value: int = 0) -> Any:
        of_rows = (getattr(row, name) for row in rows)
        return _moved(torch.stack([pad(values, (0, length - len(values)), value=value) for values in of_rows]), device)

    window, what_is_seen = inner.config.get_text_config().sliding_window, block_masks if fused else masks
    positions = padded("positions")
    with fused_layers(inner) if fused else contextlib.nullcontext(), looked_at(inner, seen.get("features")):
        hidden = inner.base_model(
            input_ids=padded("ids"),
            position_ids=positions,
            attention_mask=what_is_seen(positions, padded("parts", -1), padded("types"), window),
            pixel_values=seen["pixel_values"],
            use_cache=False,
        ).last_hidden_state
    before = torch.cat([hidden[place][_moved(row.before, device)] for place, row in enumerate(rows)])
    after, head = _moved(torch.cat([row.after for row in rows]), device), inner.get_output_embeddings()
    if hidden.is_cuda:  # where a vocabulary of 262,208 takes more than all the rest
        return chosen_log_probs(before, head.weight, after, temperature, compiled=bool(fused))
    every = (head(before).float() / temperature).log_softmax(dim=-1)
    with torch.no_grad():
        entropies = -(every.exp() * every).sum(dim=-1)
    return every.gather(-1, after[:, None])[:, 0], entropies
