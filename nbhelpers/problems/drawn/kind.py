"""What a kind of problem consists of."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nbhelpers.problems.drawn.canvas import Canvas


@dataclass(frozen=True)
class Asked:
    """A question about a scene. `facts` is what one reads off the picture to answer it, beside the scene itself."""

    question: str
    answer: str
    facts: dict[str, Any] = field(default_factory=dict)
    answer_type: str = "integer"
    choices: list[str] | None = None
    unit: str | None = None
    precision: float | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of problem. Its scene is a dictionary of plain values that decides every pixel.

    `sort` names the sort of picture: kinds of one sort ask different questions of the same pictures.
    """

    sort: str
    scene: Callable[[random.Random], dict[str, Any]]
    draw: Callable[[Canvas, dict[str, Any]], None]
    describe: Callable[[dict[str, Any]], str]
    ask: Callable[[dict[str, Any], random.Random], Asked]
