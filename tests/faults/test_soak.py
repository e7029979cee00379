"""Three kills at random times over training, in several epochs, and evaluation; `soak.py` does more, over notebooks."""

from __future__ import annotations

import pytest
from soak import soak


@pytest.mark.slow
def test_a_run_killed_at_random_times_comes_to_the_same_result(tmp_path):
    struck = soak(tmp_path, 3, notebooks=None, seed=1)
    assert len(struck) == 3 and any("epoch" in place and not place.endswith("epoch 1") for place in struck)
