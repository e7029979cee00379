"""Numbers in words, the same wherever a person reads them: counts, shares, differences of shares, chances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def counted(count: int, what: str) -> str:
    """1 and "problem" as "1 problem", 2048 as "2,048 problems"."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def percent(share: Any, decimals: int = 1) -> str:
    """0.535 as "53.5 %"; a dash for what is no number."""
    return f"{100 * share:.{decimals}f} %" if isinstance(share, (int, float)) else "\u2013"


def points(difference: float) -> str:
    """A difference of two shares in percentage points, with its sign."""
    return f"{100 * difference:+.1f}"


def interval_of_points(ends: Sequence[float]) -> str:
    """The interval of a difference: "+2.5 to +7.1"."""
    return " to ".join(map(points, ends))


def chance(p: float) -> str:
    """A test's p as "= 0.031", "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"
