"""Helpers of the vision GRPO notebooks: data, grading, rewards, training, evaluation and looking at samples."""

__version__ = "0.1.0"
