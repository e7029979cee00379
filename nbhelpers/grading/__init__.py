"""The verdict on an answer, with its reason."""

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
