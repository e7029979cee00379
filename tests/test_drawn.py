"""Log-probs from vLLM's sampler: a class in its place, which draws as vLLM 0.26 does (`tests/gpu/test_vllm.py` has the
real one).
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from nbhelpers.policy.vllm.drawn import listened_to, listening
from nbhelpers.policy.vllm.setup import GenerationError

VOCABULARY = 50


class Sampler:
    """`sample` changes the logits before it draws; a call gives what was drawn, and which requests got a token."""

    def sample(self, logits, rows, rows_np, positions, input_ids, local, return_logprobs=False):
        processed = logits / 0.7
        return torch.distributions.Categorical(logits=processed.float()).sample(), processed

    def __call__(self, logits, batch):
        tokens, _ = self.sample(logits, None, None, batch.positions, None, None)
        return SimpleNamespace(sampled_token_ids=tokens.view(-1, 1), num_sampled=batch.counts)


@pytest.fixture
def sampler():
    kind = type("Sampler", (Sampler,), {"sample": Sampler.sample, "__call__": Sampler.__call__})
    listened_to(kind)
    torch.manual_seed(0)
    return kind()


def step(sampler, names, positions, counts=None):
    """The tokens that one step of the requests drew, and their log-probs."""
    logits = torch.randn(len(names), VOCABULARY).bfloat16()
    counts = torch.tensor(counts or [1] * len(names))
    batch = SimpleNamespace(req_ids=list(names), positions=torch.tensor(positions), counts=counts)
    tokens = sampler(logits, batch).sampled_token_ids[:, 0]
    known = (logits / 0.7).float().log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    return list(zip(tokens.tolist(), known.tolist(), strict=True))


def output(name, *completions):
    """What vLLM tells of a prompt's completions: their tokens."""
    told = [SimpleNamespace(index=place, token_ids=[t for t, _ in row]) for place, row in enumerate(completions)]
    return SimpleNamespace(request_id=name, outputs=told)


def logps(*completions):
    return [pytest.approx([value for _, value in row]) for row in completions]


def test_each_completion_gets_its_own_tokens_log_probs(sampler):
    names = ["0_7-0123abcd", "1_7-0123abcd", "8-4567cdef"]
    with listening() as drawn:
        first = step(sampler, names, [4, 4, 9])
        second = step(sampler, [names[2], names[0]], [10, 5])  # the second has ended, the others have changed places
    rows = [first[0], second[1]], [first[1]], [first[2], second[0]]
    assert drawn.log_probs([output("7", *rows[:2]), output("8", rows[2])]) == logps(*rows)


def test_a_part_of_a_prompt_a_step_too_many_and_a_token_drawn_twice_change_nothing(sampler):
    with listening() as drawn:
        step(sampler, ["3"], [2], counts=[0])
        first = step(sampler, ["3"], [5])
        step(sampler, ["3"], [6])  # made room for others, and drawn once more
        second = step(sampler, ["3"], [6])
        step(sampler, ["3"], [7])  # under way when the token before ended it
    row = [*first, *second]
    assert drawn.log_probs([output("3", row)]) == logps(row)


def test_a_completion_that_was_not_drawn_is_told(sampler):
    with listening() as drawn:
        (token, logp), = step(sampler, ["3"], [5])  # fmt: skip
    for row in ([(token + 1, logp)], [(token, logp), (token, logp)]):
        with pytest.raises(GenerationError, match="not what its sampler drew"):
            drawn.log_probs([output("3", row)])
    with pytest.raises(GenerationError, match="not what its sampler drew"), listening() as nothing:
        nothing.log_probs([output("3", [(token, logp)])])


def test_nobody_listens_outside(sampler):
    with listening() as drawn:
        pass
    step(sampler, ["3"], [5])
    assert not drawn.names and not drawn.steps and not hasattr(sampler, "kept")
