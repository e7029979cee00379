"""The verdict on an answer, with its reason."""

from nbhelpers.grading.columns import GRADING_COLUMNS, PROBLEM_COLUMNS
from nbhelpers.grading.rules import (
    DEFAULT_DELIMITERS,
    Delimiters,
    FormatVerdict,
    Verdict,
    can_grade,
    check_format,
    grade,
    split_completion,
)
