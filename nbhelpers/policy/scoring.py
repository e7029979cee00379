"""Prompts and completions as one batch that the model can score."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nbhelpers.policy.memory import GIB, LOGIT_BYTES, SCORED_AT_ONCE, TextShape, fits, kept_activations, this_gpu
from nbhelpers.policy.patching import replaced
from nbhelpers.policy.policy import Policy
from nbhelpers.policy.unsloth import pytorchs_checkpoint


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


def log_probs_and_entropies(policy: Policy, inputs: dict[str, Any], ids: Any, temperature: float = 1.0) -> Any:
    """The log-probs of `ids` and the entropies of the distributions that they were drawn from, both (N, T), in nats,
    without gradients and dropout. A completion at a time, and of that a few tokens: all of Gemma-3's logits would take
    gigabytes.
    """
    import torch

    found = []
    with policy.evaluating(), torch.no_grad(), in_half(policy):
        for row in range(len(ids)):
            states, head = _before_the_head(policy, _row(inputs, row), ids.shape[1])
            for part, tokens in zip(states[0].split(SCORED_AT_ONCE), ids[row].split(SCORED_AT_ONCE), strict=True):
                scores = (head(part).float() / temperature).log_softmax(dim=-1)
                found.append((scores.gather(-1, tokens.unsqueeze(-1))[:, 0], -(scores.exp() * scores).sum(dim=-1)))
    return tuple(torch.cat(values).view(ids.shape) for values in zip(*found, strict=True))


def _before_the_head(policy: Policy, inputs: dict[str, Any], tokens: int) -> tuple[Any, Callable[[Any], Any]]:
    """The hidden states (N, tokens, width) from which each row's last `tokens` tokens were drawn, and the head that
    makes logits of them; Unsloth's model is asked for the logits themselves.
    """
    from accelerate.utils import patch_environment

    if policy.backend == "unsloth":
        with patch_environment(UNSLOTH_RETURN_LOGITS=1):
            states = policy.model(**inputs, logits_to_keep=tokens + 1, use_cache=False).logits
        head = _as_it_is
    else:
        base = policy.model.get_base_model() if policy.has_adapter else policy.model
        states, head = base.base_model(**inputs, use_cache=False).last_hidden_state, base.get_output_embeddings()
    return states[:, -tokens - 1 : -1], head  # what stands at a place is for the token after it


def _as_it_is(logits: Any) -> Any:
    return logits


def in_half(policy: Policy) -> contextlib.AbstractContextManager:
    """Inside, a policy in 16 bit on a GPU computes as in training."""
    import torch

    kind = policy.model.device.type
    return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda" and policy.model.dtype != torch.float32)


def _row(inputs: dict[str, Any], row: int) -> dict[str, Any]:
    return {key: value[row : row + 1] for key, value in inputs.items()}


def short_of_memory(policy: Policy, inputs: dict[str, Any], tokens: int) -> bool:
    """Whether the GPU's free memory does not hold what one forward over these inputs keeps for a backward pass.

    Args:
        tokens: of each row, whose logits are there at once; 0 for a few at a time.
    """
    if policy.model.device.type != "cuda":
        return False
    shape, gpu = TextShape.of(policy.model.config.text_config.to_dict()), this_gpu()
    ids = inputs["input_ids"]
    logits = LOGIT_BYTES * max(SCORED_AT_ONCE, len(ids) * tokens) * shape.vocabulary
    return not fits(kept_activations(shape, ids.numel()) + logits, gpu.free * GIB, gpu.total * GIB)


def with_little_memory(policy: Policy, function: Callable[[Any, Any], Any], inputs: dict[str, Any], ids: Any) -> Any:
    """What `function` makes of the logits before each of `ids` (N, T), for its gradient.

    It gets (tokens, vocabulary) logits and (tokens,) ids, a few tokens at a time, whose logits are computed once more
    in the backward pass instead of kept. Where memory is short, the layers go through a completion at a time, and their
    activations are computed once more as well.
    """
    import torch

    checkpoint = pytorchs_checkpoint()

    def of_some(head: Callable[[Any], Any], states: Any, ids: Any) -> Any:
        return function(head(states), ids)

    def of(inputs: dict[str, Any], ids: Any) -> Any:
        states, head = _before_the_head(policy, inputs, ids.shape[1])
        parts = zip(states.flatten(0, 1).split(SCORED_AT_ONCE), ids.flatten().split(SCORED_AT_ONCE), strict=True)
        every = [checkpoint(of_some, head, *part, use_reentrant=False) for part in parts]
        return torch.cat(every).view(ids.shape)

    def of_one(row: int) -> Any:
        with _layers_recomputed(policy):
            return of(_row(inputs, row), ids[row : row + 1])

    with in_half(policy):
        if not short_of_memory(policy, inputs, ids.shape[1] if policy.backend == "unsloth" else 0):
            return of(inputs, ids)
        return torch.cat([checkpoint(of_one, row, use_reentrant=False) for row in range(len(ids))])


@contextlib.contextmanager
def _layers_recomputed(policy: Policy) -> Iterator[None]:
    """Inside, transformers' layers keep their inputs alone for the backward pass, as Unsloth's do anyway."""
    base = policy.model.get_base_model()
    if policy.backend != "transformers" or base.is_gradient_checkpointing:
        yield
        return
    base.gradient_checkpointing_enable({"use_reentrant": False})
    with contextlib.ExitStack() as changes:
        changes.callback(base.gradient_checkpointing_disable)
        for layer in base.modules():
            if getattr(layer, "gradient_checkpointing", False):  # it asks this flag; what it holds stays as it is
                changes.enter_context(replaced(layer, "training", True))
        yield


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
    log_probs, entropy = log_probs_and_entropies(policy, inputs, ids, temperature or 1.0)
    with policy.without_adapter():
        before, _ = log_probs_and_entropies(policy, inputs, ids, temperature or 1.0)
    log_probs, before, entropy = log_probs * mask, before * mask, entropy * mask
    weight = None if sampled is None else (log_probs - sampled.to(log_probs)).exp()
    words = [[tokenizer.decode([token]) for token in row] for row in tokens]
    return WordNumbers(words, log_probs.cpu(), entropy.cpu(), (log_probs - before).cpu(), weight)
