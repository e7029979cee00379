"""The gain taken apart: how much of it is handing the answer in, and how much is being right more often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbhelpers.evaluation.statistics import paired_difference, picture_clusters, problem_accuracy


def right_anywhere(rows: Sequence[dict]) -> dict[str, float]:
    """Share of samples by problem id whose answer is right wherever it stands, handed in or not."""
    return problem_accuracy([row | {"correct": row["correct"] or row["correct_anywhere"]} for row in rows])


def split_gain(before: Sequence[dict], after: Sequence[dict], plain: Sequence[dict]) -> dict[str, Any]:
    """The difference of two phases as a sum of two, each with its interval, and the base under the plain prompt.

    *Handing in* is what the strict grader lost of right answers before, less what it loses after; *right more often*
    is the difference of the answers that are right wherever they stand. Together they are the whole difference.

    Args:
        before, after: predictions of both phases, with `correct` and `correct_anywhere`.
        plain: the base model's answers to some of the problems without the output format; may be empty.

    Returns:
        {"anywhere": {"before", "after"}, "hands_in", "right_more_often", "plain"}; the second and the third as
        `paired_difference` gives them. "plain" is {"accuracy", "n", "helps": whether it is at least that of the
        training prompt before, "difference": after training less plain, on the same problems, both wherever the answer
        stands}, where there are such rows.
    """
    pictures = picture_clusters(after)
    strict = [problem_accuracy(rows) for rows in (before, after)]
    anywhere = [right_anywhere(rows) for rows in (before, after)]
    lost = [{pid: whole[pid] - handed[pid] for pid in whole} for whole, handed in zip(anywhere, strict, strict=True)]
    shared = anywhere[0].keys() & anywhere[1].keys()
    means = [sum(rates[pid] for pid in shared) / max(len(shared), 1) for rates in anywhere]
    result = {
        "anywhere": dict(zip(("before", "after"), means, strict=True)),
        "hands_in": paired_difference(lost[1], lost[0], pictures),
        "right_more_often": paired_difference(*anywhere, pictures),
    }
    if plain:
        rates = right_anywhere(plain)
        result["plain"] = {
            "accuracy": sum(rates.values()) / len(rates),
            "n": len(rates),
            "helps": sum(rates.values()) >= sum(anywhere[0].get(pid, 0.0) for pid in rates),
            "difference": paired_difference(rates, anywhere[1], pictures),
        }
    return result
