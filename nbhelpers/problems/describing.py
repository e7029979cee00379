"""Figures on both sets before anything is trained: what is in them, what guessing earns, what they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from nbhelpers.problems.asking import kind_of
from nbhelpers.problems.cutting import question_key, stored_pictures
from nbhelpers.problems.loading import ProblemSets


def type_counts(problems: ProblemSets) -> list[dict[str, Any]]:
    """Problems by kind, question type and answer type in both sets: a row per combination, the most frequent first."""
    counts = {
        name: Counter((kind_of(row), row["question_type"], row["answer_type"]) for row in rows.remove_columns("image"))
        for name, rows in (("train", problems.train), ("evaluation", problems.evaluation))
    }
    total = counts["train"] + counts["evaluation"]
    return [
        dict(zip(("kind", "question_type", "answer_type"), key, strict=True))
        | {name: count[key] for name, count in counts.items()}
        for key, _ in total.most_common()
    ]


def guessing_rates(problems: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The accuracy of two policies that never look: always the most frequent answer, or a choice by chance.

    A free-form answer cannot be picked by chance and counts as wrong there.
    """
    rows = list(problems)
    if not rows:
        raise ValueError("there are no problems to guess at")
    most_frequent = Counter(row["answer"] for row in rows).most_common(1)[0][1]
    by_chance = sum(1 / len(row["choices"]) for row in rows if row["choices"])
    return {"most frequent answer": most_frequent / len(rows), "a choice by chance": by_chance / len(rows)}


def overlap(problems: ProblemSets) -> dict[str, int]:
    """How many pictures and question texts are in both sets."""
    sides = (problems.train, problems.evaluation)
    pictures = [set(stored_pictures(rows)) for rows in sides]
    questions = [{question_key(text) for text in rows["question"]} for rows in sides]
    return {"pictures": len(set.intersection(*pictures)), "question texts": len(set.intersection(*questions))}
