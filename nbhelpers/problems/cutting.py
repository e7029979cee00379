"""Cutting problems into training and evaluation, so that nothing of one side is repeated on the other."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbhelpers.problems.sources import DataError


def picture_digest(row: Mapping[str, Any]) -> str:
    image = row["image"]
    return hashlib.sha1(f"{image.size}".encode() + image.tobytes(), usedforsecurity=False).hexdigest()


def question_key(question: str) -> str:
    """The words of a question, so that case, spacing and punctuation do not make it another one."""
    return " ".join(re.findall(r"\w+", question.casefold())) or question.strip()


@dataclass(frozen=True)
class Cut:
    """Row numbers of both sides, and what a reader should know."""

    train: list[int]
    evaluation: list[int]
    notices: list[str]


def cut_problems(pictures: Sequence[Hashable], questions: Sequence[str], fraction: float, seed: int) -> Cut:
    """Hold back about `fraction` of the rows so that no picture and no question text is on both sides.

    Rows that share a picture or a question (in other words: apart from case, spacing and punctuation) stay together,
    and so do rows that are chained by such pairs. Where a few stock questions chain most rows together, so that less
    than half of `fraction` could be held back, only pictures are kept apart, and a notice says so.

    Raises `DataError` when all rows share one picture.
    """
    wanted = max(1, round(len(pictures) * fraction))
    keys = [question_key(question) for question in questions]
    groups = _connected(pictures, keys)
    evaluation = _hold_back(groups, wanted, seed)
    notices = []
    if len(evaluation) < wanted / 2:
        stuck = max(map(len, groups))
        groups = _connected(pictures)
        evaluation = _hold_back(groups, wanted, seed)
        if not evaluation and len(groups) > 1:  # every picture has more rows than are wanted
            evaluation = set(min(groups, key=len))
        held = {keys[place] for place in evaluation}
        repeated = {key for place, key in enumerate(keys) if place not in evaluation and key in held}
        notices.append(
            f"Stock questions chain {stuck} of the {len(keys)} rows together, so only pictures are kept apart: "
            f"{len(repeated)} question texts are asked of training and of evaluation pictures."
        )
    if not evaluation:
        raise DataError(
            "dataset: the rows cannot be cut into training and evaluation, as they share one picture: give "
            "dataset.eval_path or dataset.eval_split for a separate evaluation set."
        )
    # Both sides in the order of the rows, which is already a seeded one.
    train = [place for place in range(len(keys)) if place not in evaluation]
    return Cut(train, sorted(evaluation), notices)


def cut_from_training(train: Any, number: int, seed: int) -> tuple[Any, Any]:
    """About `number` rows of a data set for choosing between checkpoints, cut off as evaluation is: (rest, those)."""
    cut = cut_problems(stored_pictures(train), train["question"], number / len(train), seed)
    return train.select(cut.train), train.select(cut.evaluation)


def stored_pictures(rows: Any) -> list[bytes]:
    """The pictures of a data set as PNG, which are equal where the pixels are: one encoder wrote them all."""
    import datasets

    stored = rows.select_columns("image").cast_column("image", datasets.Image(decode=False))
    return [picture["bytes"] for picture in stored["image"]]


def _connected(*columns: Sequence[Hashable]) -> list[list[int]]:
    """Rows that share a value in a column, directly or by way of others, as groups in the order of their first row."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = len(columns[0])
    nodes: dict[Hashable, int] = {}  # a node for each value, after those of the rows
    ends = [
        (row, nodes.setdefault((which, value), rows + len(nodes)))
        for which, column in enumerate(columns)
        for row, value in enumerate(column)
    ]
    size = rows + len(nodes)
    graph = coo_array(([True] * len(ends), tuple(zip(*ends, strict=True))), shape=(size, size))
    groups: dict[int, list[int]] = {}
    for row, label in enumerate(connected_components(graph, directed=False)[1][:rows].tolist()):
        groups.setdefault(label, []).append(row)
    return list(groups.values())


def _hold_back(groups: Sequence[Sequence[int]], wanted: int, seed: int) -> set[int]:
    """Whole groups in a seeded order until about `wanted` rows are reached; never all of them."""
    order = list(groups)
    random.Random(seed).shuffle(order)
    order.remove(max(order, key=len))  # the largest always trains: something must, and it fits evaluation least
    held: set[int] = set()
    for group in order:
        # A group may overshoot by half of itself, as then leaving it out would miss by more.
        if len(held) + len(group) / 2 <= wanted and len(held) < wanted:
            held.update(group)
    return held
