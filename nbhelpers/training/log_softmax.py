"""Log-probs of chosen tokens without ever holding all logits, whose (tokens, 262208) matrix takes 4 GiB in float32 for
8 completions of 512 tokens, and as much again for each of its copies.

The gradient with respect to the hidden states is taken in the forward pass, while a chunk's probabilities are there;
the backward pass only scales it. So the language head is multiplied twice instead of three times, and what is kept is
as large as the hidden states. The head itself gets no gradient: LoRA leaves it frozen.
"""

from __future__ import annotations

import functools
from typing import Any

CHUNK = 1024  # tokens at once: 1.3 GiB of bfloat16 and float32 logits with Gemma-3's vocabulary


def chosen_log_probs(hidden: Any, head: Any, tokens: Any, temperature: float, *, compiled: bool = False) -> tuple:
    """Log-prob of each token and entropy (nats) of the distribution that it was chosen from, both (N,) float32.

    Args:
        hidden: (N, width) the states that predict the tokens; under autocast it and the head are multiplied in its
            precision.
        head: (vocabulary, width), the output embeddings without gradient.
        tokens: (N,) ids.
        compiled: whether softmax and entropy are one compiled kernel.

    Gradients reach `hidden` through the log-probs; the entropies carry none.
    """
    import torch

    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        hidden, head = hidden.to(dtype), head.to(dtype)
    return _function().apply(hidden, head, tokens, temperature, _compiled() if compiled else _softmax)


@functools.cache
def _function() -> type:
    import torch

    class ChosenLogProbs(torch.autograd.Function):
        @staticmethod
        def forward(ctx, hidden, head, tokens, temperature, softmax):
            chosen = torch.empty(hidden.shape[0], device=hidden.device, dtype=torch.float32)
            entropies, toward = torch.empty_like(chosen), None
            if ctx.needs_input_grad[0]:
                toward = torch.empty_like(hidden)
            for start in range(0, len(tokens), CHUNK):
                some = slice(start, start + CHUNK)
                with torch.autocast(hidden.device.type, enabled=False):
                    found = softmax(hidden[some] @ head.t(), tokens[some], temperature)
                    chosen[some], entropies[some], slope = found
                    if toward is not None:
                        toward[some] = slope @ head
            ctx.save_for_backward(toward)
            ctx.mark_non_differentiable(entropies)
            return chosen, entropies

        @staticmethod
        def backward(ctx, gradient, _):
            (toward,) = ctx.saved_tensors
            return (toward * gradient[:, None]).to(toward.dtype), None, None, None, None

    return ChosenLogProbs


def _softmax(logits: Any, tokens: Any, temperature: float) -> tuple:
    """Of (n, vocabulary) logits: log-probs and entropies (n,), and the log-probs' derivative by the logits."""
    import torch

    scores = logits.float() / temperature
    norm = scores.logsumexp(dim=-1, keepdim=True)
    every = scores - norm
    probs = every.exp()
    is_chosen = torch.arange(scores.shape[-1], device=scores.device) == tokens[:, None]
    # One minus a probability near 1 has to be taken before rounding to bfloat16.
    slope = ((is_chosen.float() - probs) / temperature).to(logits.dtype)
    return every.gather(-1, tokens[:, None])[:, 0], -(probs * every).sum(dim=-1), slope


@functools.cache
def _compiled() -> Any:
    import torch

    return torch.compile(_softmax, dynamic=True)
