"""Three kills at random times over training and evaluation as a series; `soak.py` does more of them."""

from __future__ import annotations

import pytest
from soak import soak


@pytest.mark.slow
def test_a_series_killed_at_random_times_comes_to_the_same_result(tmp_path):
    assert len(soak(tmp_path, 3, notebooks="3-4")) == 3
