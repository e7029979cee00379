"""Helpers of the vision GRPO notebooks: data, grading, rewards, training, evaluation and looking at samples."""

import os

__version__ = "0.1.0"

# Nobody is told what is run here, unless the environment says so by a value of its own. The libraries read these when
# they are imported, and whatever imports them imports this first.
for _silent in ("HF_HUB_DISABLE_TELEMETRY", "VLLM_NO_USAGE_STATS", "UNSLOTH_DISABLE_STATISTICS"):
    os.environ.setdefault(_silent, "1")
