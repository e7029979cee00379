"""What the strict protocol does where one could decide either way: the table of `tables.toml`, which a test runs."""

from __future__ import annotations

from typing import Any, NamedTuple

from nbhelpers.grading.tables import TABLES


class Rule(NamedTuple):
    """One decision with a solution that shows it: the gold answer, whether it is credited, the problem's columns."""

    case: str
    solution: str
    answer: str
    credited: bool
    columns: dict[str, Any]


POLICY = tuple(Rule(**rule) for rule in TABLES["policy"]["rules"])
