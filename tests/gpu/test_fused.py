"""The packed loss through compiled layers and FlexAttention on a GPU is the loss of the rows apart."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.gpu


@pytest.fixture
def policy():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    from tiny_policy import policy_with_adapter

    return policy_with_adapter(std=0.02)


def differences(policy):
    """Largest gap of log-probs (nats) and of entropies, and that of the gradients as a share of their norm."""
    import torch
    from test_packed import a_batch, gradients_of, plain_log_probs, short_windows

    from nbhelpers.training.fused import Lengths
    from nbhelpers.training.packed import packed_log_probs

    short_windows(policy, 40)
    batch, groups = a_batch(policy)
    batch, groups = {name: values.cuda() for name, values in batch.items()}, groups.cuda()
    weights = torch.randn(len(groups), generator=torch.Generator().manual_seed(1)).cuda()
    plain, plain_entropies = plain_log_probs(policy, batch, 0.7)
    expected = gradients_of(policy, plain, weights)
    lengths = Lengths(256, at_once=True)
    ours, entropies = packed_log_probs(policy.model, batch, groups, weights != 0, 0.7, lengths=lengths)
    found = gradients_of(policy, ours, weights)
    assert found.keys() == expected.keys()
    ours_flat, flat = (torch.cat([g.flatten() for g in named.values()]) for named in (found, expected))
    gaps = (ours - plain).abs().max(), (entropies - plain_entropies).abs().max()
    return *map(float, gaps), float((ours_flat - flat).norm() / flat.norm())


def test_in_float32_it_is_the_same(policy):
    policy.model.float()
    log_probs, entropies, gradients = differences(policy)
    assert log_probs < 1e-3 and entropies < 1e-3 and gradients < 1e-3


def test_in_bfloat16_it_is_as_near_to_float32_as_the_rows_apart_are(policy):
    from test_packed import as_near_to_the_truth, errors_in_half

    from nbhelpers.training.fused import Lengths

    errors = errors_in_half(policy, Lengths(256, at_once=True))
    print(json.dumps(errors))
    assert as_near_to_the_truth(errors), errors
