"""Prompts and completions as one batch that the model can score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    import torch

    tokenizer = policy.processor.tokenizer
    tokens = [
        tokenizer(text, add_special_tokens=False)["input_ids"] or [tokenizer.eos_token_id] for text in completions
    ]
    inputs, ids, mask = completions_as_inputs(policy, conversations, images, tokens)
    mode = policy.model.training
    policy.model.eval()
    try:
        with torch.no_grad():
            now = (completion_logits(policy, inputs, ids.shape[1]) / (temperature or 1.0)).log_softmax(dim=-1)
            with policy.without_adapter():
                base = (completion_logits(policy, inputs, ids.shape[1]) / (temperature or 1.0)).log_softmax(dim=-1)
    finally:
        policy.model.train(mode)
    log_probs, before = (scores.gather(-1, ids.unsqueeze(-1)).squeeze(-1) * mask for scores in (now, base))
    weight = None if sampled is None else (log_probs - sampled.to(log_probs)).exp()
    words = [[tokenizer.decode([token]) for token in row] for row in tokens]
    entropy = -(now.exp() * now).sum(dim=-1) * mask
    return WordNumbers(words, log_probs.cpu(), entropy.cpu(), (log_probs - before).cpu(), weight)
