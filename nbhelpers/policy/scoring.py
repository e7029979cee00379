"""Prompts and completions as one batch that the model can score."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nbhelpers.policy.memory import GIB, LOGIT_BYTES, TextShape, fits, kept_activations, this_gpu
from nbhelpers.policy.policy import Policy

TOKENS = 64  # whose logits are held in float32 at once


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
    """Logits, (N, tokens, vocabulary) in float32, from which each row's last `tokens` tokens were drawn."""
    return _logits(policy, inputs, tokens).float()


def _logits(policy: Policy, inputs: dict[str, Any], tokens: int) -> Any:
    import torch
    from accelerate.utils import patch_environment

    device = inputs["input_ids"].device.type
    half = device == "cuda" and policy.model.dtype != torch.float32
    with patch_environment(UNSLOTH_RETURN_LOGITS=1), torch.autocast(device, torch.bfloat16, enabled=half):
        logits = policy.model(**inputs, logits_to_keep=tokens + 1, use_cache=False).logits
    return logits[:, -tokens - 1 : -1]  # the logits at a place are for the token after it


def log_probs_and_entropies(policy: Policy, inputs: dict[str, Any], ids: Any, temperature: float = 1.0) -> Any:
    """The log-probs of `ids` and the entropies of the distributions that they were drawn from, both (N, T), in nats,
    without gradients. A completion at a time: all of Gemma-3's logits would take gigabytes.
    """
    import torch

    found = []
    for row in range(len(ids)):
        with torch.no_grad():
            logits = _logits(policy, {key: value[row : row + 1] for key, value in inputs.items()}, ids.shape[1])[0]
            for part, tokens in zip(logits.split(TOKENS), ids[row].split(TOKENS), strict=True):
                scores = (part.float() / temperature).log_softmax(dim=-1)
                found.append((scores.gather(-1, tokens.unsqueeze(-1))[:, 0], -(scores.exp() * scores).sum(dim=-1)))
    return tuple(torch.cat(values).view(ids.shape) for values in zip(*found, strict=True))


def short_of_memory(policy: Policy, inputs: dict[str, Any], tokens: int) -> bool:
    """Whether the GPU's free memory does not hold what one forward over these inputs keeps for a backward pass."""
    if policy.model.device.type != "cuda":
        return False
    shape, gpu = TextShape.of(policy.model.config.text_config.to_dict()), this_gpu()
    ids = inputs["input_ids"]
    needed = kept_activations(shape, ids.numel()) + LOGIT_BYTES * len(ids) * tokens * shape.vocabulary
    return not fits(needed, gpu.free * GIB, gpu.total * GIB)


def with_little_memory(policy: Policy, function: Callable[..., Any], inputs: dict[str, Any], ids: Any) -> Any:
    """`function(inputs, ids)` for its gradient; where memory is short, a completion at a time, and computed once more
    in the backward pass instead of kept.
    """
    if not short_of_memory(policy, inputs, ids.shape[1]):
        return function(inputs, ids)
    import torch
    from torch.utils.checkpoint import checkpoint

    def of_one(row: int) -> Any:
        with _layers_recomputed(policy):
            return function({key: value[row : row + 1] for key, value in inputs.items()}, ids[row : row + 1])

    return torch.cat([checkpoint(of_one, row, use_reentrant=False) for row in range(len(ids))])


@contextlib.contextmanager
def _layers_recomputed(policy: Policy) -> Iterator[None]:
    """Inside, transformers' layers keep their inputs alone for the backward pass, as Unsloth's do anyway."""
    base = policy.model.get_base_model()
    if policy.backend != "transformers" or base.is_gradient_checkpointing:
        yield
        return
    base.gradient_checkpointing_enable({"use_reentrant": False})
    layers = [layer for layer in base.modules() if getattr(layer, "gradient_checkpointing", False)]
    modes = [layer.training for layer in layers]
    for layer in layers:
        layer.training = True  # they ask this flag, each its own; what they hold stays as it is
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.training = mode
        base.gradient_checkpointing_disable()


@dataclass(frozen=True)
class WordNumbers:
    """What the policy makes of each token of N completions; the arrays are (N, T), 0 where there is no token.

    Attributes:
        words: the tokens' texts, N lists of their own length.
        log_probs: log-probability of the token, in nats.
        entropy: of the distribution that it was drawn from, in nats: how open the choice was.
        change: log-probability with the adapter less that without it: what training did to this token.
        weight: probability now over the probability when it was sampled; None where that is not known.
    """

    words: list[list[str]]
    log_probs: Any
    entropy: Any
    change: Any
    weight: Any = None

    def measures(self) -> dict[str, Any]:
        """The arrays by what they mean, as `show.words` takes them."""
        named = {
            "change of log-probability by training, in nats": self.change,
            "log-probability, in nats": self.log_probs,
            "entropy of the choice, in nats": self.entropy,
        }
        return named if self.weight is None else {**named, "log of the importance weight": self.weight.log()}


def word_numbers(
    policy: Policy,
    conversations: Sequence[list[dict]],
    images: Sequence[Any],
    completions: Sequence[str],
    temperature: float = 1.0,
    sampled: Any = None,
) -> WordNumbers:
    """One forward with the adapter and one without over N texts after their prompts.

    Args:
        completions: texts; they are cut into tokens anew, and the end of the turn is not among them.
        temperature: that the completions were sampled at.
        sampled: log-probs when they were sampled, (N, T), for the importance weights.
    """
    tokenizer = policy.processor.tokenizer
    tokens = [
        tokenizer(text, add_special_tokens=False)["input_ids"] or [tokenizer.eos_token_id] for text in completions
    ]
    inputs, ids, mask = completions_as_inputs(policy, conversations, images, tokens)
    mode = policy.model.training
    policy.model.eval()
    try:
        log_probs, entropy = log_probs_and_entropies(policy, inputs, ids, temperature or 1.0)
        with policy.without_adapter():
            before, _ = log_probs_and_entropies(policy, inputs, ids, temperature or 1.0)
    finally:
        policy.model.train(mode)
    log_probs, before, entropy = log_probs * mask, before * mask, entropy * mask
    weight = None if sampled is None else (log_probs - sampled.to(log_probs)).exp()
    words = [[tokenizer.decode([token]) for token in row] for row in tokens]
    return WordNumbers(words, log_probs.cpu(), entropy.cpu(), (log_probs - before).cpu(), weight)
