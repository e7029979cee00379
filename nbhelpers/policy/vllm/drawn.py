"""Log-probs of sampled tokens, kept on the GPU until a generation is over.

vLLM 0.26 copies each token's to main memory, cuts them up by request and makes an object of each, all by the thread
that starts the GPU's work: with 64 completions at once 0.6 of 5.5 ms a token (one NVIDIA H200, 2026-12-01,
`tests/benchmarks/bench_decode.py`). 0.2 of that is its kernel for them, which takes one block of threads a row.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbhelpers.policy.vllm.setup import WITHOUT_VLLM, GenerationError

# What vLLM calls a request: its place among those of a prompt if there are several, the caller's name, random letters.
_NAME = re.compile(r"(?:(?P<place>\d+)_)?(?P<prompt>.+?)(?:-[0-9a-f]{8})?")
_listening: list[Drawn] = []


@dataclass
class Drawn:
    """What a sampler drew: for each step the requests' names and, (requests,) each, on the sampler's device, the
    positions that were sampled from, the tokens, their log-probs, and whether they count (a part of a prompt gives
    none).
    """

    names: list[str] = field(default_factory=list)
    steps: list[tuple[Any, Any, Any, Any]] = field(default_factory=list)

    def note(self, names: Sequence[str], positions: Any, tokens: Any, logits: Any, counts: Any) -> None:
        """One step: of `logits`, (requests, vocabulary), `tokens` were drawn."""
        import torch

        logps = logits.log_softmax(dim=-1, dtype=torch.float32).gather(-1, tokens[:, None].long())[:, 0]
        self.names += names
        self.steps.append((positions, tokens, logps, counts))

    def log_probs(self, outputs: Sequence[Any]) -> list[list[float]]:
        """Of each token of the completions of `vllm.RequestOutput`s, in order.

        Raises:
            GenerationError: a completion is not what was drawn.
        """
        import torch

        columns = zip(*self.steps, strict=True) if self.steps else [[torch.empty(0)]] * 4
        positions, tokens, logps, counts = (torch.cat(list(column)).tolist() for column in columns)
        by_name: dict[str, dict[int, tuple[int, float]]] = {}
        for name, position, token, logp, count in zip(self.names, positions, tokens, logps, counts, strict=True):
            if count:  # a request that had to make room is sampled from once more: the last time counts
                by_name.setdefault(name, {})[position] = (token, logp)
        found = {_place_of(name): drawn for name, drawn in by_name.items()}
        return [
            _of_completion(found.get((output.request_id, completion.index), {}), list(completion.token_ids))
            for output in outputs
            for completion in output.outputs
        ]


def _place_of(name: str) -> tuple[str, int]:
    """The prompt's name and the place among its completions of what vLLM calls a request."""
    parts = _NAME.fullmatch(name)
    return parts["prompt"], int(parts["place"] or 0)


def _of_completion(drawn: dict[int, tuple[int, float]], tokens: list[int]) -> list[float]:
    # The step after a completion's last token is under way when that is seen to end it.
    kept = [drawn[position] for position in sorted(drawn)][: len(tokens)]
    if [token for token, _ in kept] != tokens:
        raise GenerationError(
            f"vLLM gives a completion of {len(tokens)} tokens that is not what its sampler drew: its insides differ "
            f"from the tested version's. {WITHOUT_VLLM}"
        )
    return [logp for _, logp in kept]


@contextlib.contextmanager
def listening() -> Iterator[Drawn]:
    """Inside, what any sampler that `listened_to` has changed draws is noted."""
    drawn = Drawn()
    _listening.append(drawn)
    try:
        yield drawn
    finally:
        _listening.pop()


def listened_to(sampler: type) -> None:
    """Let `listening` hear a class like `vllm.v1.worker.gpu.sample.sampler.Sampler`: `sample` gives tokens and the
    logits that they were drawn from, its fourth argument are the positions, and a call gives it the batch.
    """
    sample, call = sampler.sample, sampler.__call__

    def sample_and_keep(self: Any, logits: Any, rows: Any, rows_np: Any, positions: Any, *args: Any, **kw: Any) -> Any:
        tokens, processed = sample(self, logits, rows, rows_np, positions, *args, **kw)
        if _listening:
            self.kept = positions, tokens, processed
        return tokens, processed

    def call_and_note(self: Any, logits: Any, input_batch: Any) -> Any:
        output = call(self, logits, input_batch)
        if _listening:
            (positions, tokens, processed), self.kept = self.kept, None
            _listening[-1].note(input_batch.req_ids, positions, tokens, processed, output.num_sampled)
        return output

    sampler.sample, sampler.__call__ = sample_and_keep, call_and_note
