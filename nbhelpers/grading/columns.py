"""A problem's columns that travel with its completions, by MathVista's names: to the rewards and onto the disk."""

from __future__ import annotations

PROBLEM_COLUMNS = ("question", "choices", "unit", "precision", "answer", "question_type", "answer_type")

# What a verdict depends on beside the answer; each may be absent from a data set.
GRADING_COLUMNS = tuple(name for name in PROBLEM_COLUMNS if name not in ("question", "answer"))
