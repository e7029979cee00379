"""A reward that knows nothing: a coin for each completion, 0 or 2, the same for the same text of the same problem."""

from __future__ import annotations

import hashlib


def coin(completions, pid, trainer_state=None, **kwargs):
    """0 or 2 for each completion by a digest of step, problem, place and text: random to the policy, and repeatable."""
    step = trainer_state.global_step if trainer_state is not None else 0
    return [
        2.0 * (_digest(step, name, place, completion) % 2)
        for place, (completion, name) in enumerate(zip(completions, pid, strict=True))
    ]


def _digest(*parts) -> int:
    return hashlib.sha1(repr(parts).encode(), usedforsecurity=False).digest()[0]
