"""Log-probs of chosen tokens without ever holding all logits, whose (tokens, 262208) matrix takes 4 GiB in float32 for
8 completions of 512 tokens, and as much again for each of its copies.

The gradient with respect to the hidden states is taken in the forward pass, while a chunk's probabilities are there;
the backward pass only scales it. So the language head is multiplied twice instead of three times, and what is kept is
as large as the hidden states. The head itself gets no gradient: LoRA leaves it frozen.
"""

from __future__ import annotations

import functools
from typing import Any

CHUNK = 512  # tokens at once where it is compiled, a quarter of them where it is not (`policy.memory.CHUNK_BYTES`)


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
    softmax, chunk = (_compiled(), CHUNK) if compiled else (_softmax, CHUNK // 4)
    return _function().apply(hidden, head, tokens, temperature, softmax, chunk)


@functools.cache
def _function() -> type:
    import torch

    class ChosenLogProbs(torch.autograd.Function):
        @staticmethod
        def forward(ctx, hidden, head, tokens, temperature, softmax, chunk):
            chosen = torch.empty(hidden.shape[0], device=hidden.device, dtype=torch.float32)
            entropies, toward = torch.empty_like(chosen), None
            if ctx.needs_input_grad[0]:
                toward = torch.empty_like(hidden)
            for start in range(0, len(tokens), chunk):
                some = slice(start, start + chunk)
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
            return (toward * gradient[:, None]).to(toward.dtype), *[None] * 5

    return ChosenLogProbs


def _softmax(logits: Any, tokens: Any, temperature: float) -> tuple:
    """Of (n, vocabulary) logits: log-probs and entropies (n,), and the log-probs' derivative by the logits."""
    import torch

    every = logits.float().div_(temperature)
    every -= every.logsumexp(dim=-1, keepdim=True)
    chosen, slope = every.gather(-1, tokens[:, None]), every.exp()
    entropies = -(slope * every).sum(dim=-1)
    # One minus a probability near 1, which has to be taken before rounding to bfloat16.
    slope = slope.neg_().scatter_add_(-1, tokens[:, None], torch.ones_like(chosen)).div_(temperature)
    return chosen[:, 0], entropies, slope.to(logits.dtype)


@functools.cache
def _compiled() -> Any:
    import torch

    return torch.compile(_softmax, dynamic=True)
