"""Prompts and completions as one batch that the model can score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbhelpers.policy.policy import Policy


def completions_as_inputs(
    policy: Policy, conversations: Sequence[list[dict]], images: Sequence[Any], completions: Sequence[Sequence[int]]
) -> tuple[dict[str, Any], Any, Any]:
    """N prompts, each with its picture and one completion, on the model's device.

    Args:
        completions: token ids, N lists of their own length.

    Returns:
        The model's keyword arguments, prompts padded on the left and completions on the right; the completions' ids (N,
        T); and their mask (N, T), 1 where there is a token.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    batch = policy.inputs(conversations, images)
    rows = [torch.tensor(tokens, dtype=torch.long) for tokens in completions]
    ids = pad_sequence(rows, batch_first=True, padding_value=policy.processor.tokenizer.pad_token_id)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    inputs = dict(batch)
    inputs["input_ids"] = torch.cat([batch["input_ids"], ids], dim=1)
    inputs["attention_mask"] = torch.cat([batch["attention_mask"], mask], dim=1)
    inputs["token_type_ids"] = torch.cat([batch["token_type_ids"], torch.zeros_like(ids)], dim=1)
    device = policy.model.device
    return {key: value.to(device) for key, value in inputs.items()}, ids.to(device), mask.to(device)


def completion_logits(policy: Policy, inputs: dict[str, Any], tokens: int) -> Any:
    """Logits, (N, tokens, vocabulary), from which each row's last `tokens` tokens were drawn."""
    import torch
    from accelerate.utils import patch_environment

    device = inputs["input_ids"].device.type
    half = device == "cuda" and policy.model.dtype != torch.float32
    with patch_environment(UNSLOTH_RETURN_LOGITS=1), torch.autocast(device, torch.bfloat16, enabled=half):
        logits = policy.model(**inputs, logits_to_keep=tokens + 1, use_cache=False).logits
    return logits[:, -tokens - 1 : -1].float()  # the logits at a place are for the token after it
