"""TODO."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbhelpers.params import DatasetParams
from nbhelpers.problems.cutting import contents_of, cut_problems, picture_digest
from nbhelpers.problems.pictures import Unusable, prepare_image
from nbhelpers.problems.sources import DataError, open_source

if TYPE_CHECKING:
    import datasets


# What `dataset.max_samples: null` draws of the embedded problems: 60 steps of 32 prompts, and 512 to evaluate.
EMBEDDED_PROBLEMS = 2560


MATHVISTA_LICENCE = (
    "MathVista is meant for evaluation, and its licence forbids using it as a training set: train on it to try "
    "things out, and publish with the preset full_geometry3k, which trains on Geometry3K and evaluates on MathVista."
)


OUTSIDE_ANSWER_TYPES = "answer type not in dataset.answer_types"


IN_EVALUATION = "also in the evaluation set"


@dataclass(frozen=True)
class ProblemSets:
    """What a run trains on and is evaluated on.

    `dropped` counts the rows that could not be used by reason, `fingerprint` is a digest of the contents of
    both sets (the same problems give the same fingerprint on every machine), `notices` is what a reader of
    the results should know.
    """

    train: datasets.Dataset
    evaluation: datasets.Dataset
    dropped: dict[str, int]
    fingerprint: str
    source: str
    notices: list[str] = field(default_factory=list)

    def as_manifest(self) -> dict[str, Any]:
        """The manifest's entry `dataset`."""
        return {
            "path": self.source,
            "fingerprint": self.fingerprint,
            "train": len(self.train),
            "evaluation": len(self.evaluation),
            "dropped": self.dropped,
        }


def load_problems(dataset: DatasetParams) -> ProblemSets:
    """Load, check and cut the problems of a run. The same parameters give the same sets in the same order.

    Raises `DataError` with a sentence where the source cannot be read, or leaves nothing to train on or to
    evaluate.
    """
    dropped: Counter[str] = Counter()
    notices = [notice] if (notice := licence_notice(dataset)) else []
    if dataset.eval_path is None and dataset.eval_split is None:
        if dataset.path == "embedded":
            total = dataset.max_samples or EMBEDDED_PROBLEMS
            held_back = max(1, round(total * dataset.eval_fraction))
            train = _embedded(dataset, "train", total - held_back, dropped)
            evaluation = _embedded(dataset, "evaluation", min(held_back, dataset.eval_samples or held_back), dropped)
            source = "embedded"
        else:
            rows, source = _read(
                dataset, dataset.path, dataset.split, dataset.max_samples, "dataset.path", dropped, notices
            )
            cut = cut_problems(
                [picture_digest(row) for row in rows],
                [row["question"] for row in rows],
                dataset.eval_fraction,
                dataset.seed,
            )
            notices += cut.notices
            train = [rows[place] for place in cut.train]
            evaluation = [rows[place] for place in cut.evaluation][: dataset.eval_samples]
    else:
        eval_path = dataset.eval_path or dataset.path
        if eval_path == "embedded":
            count = dataset.eval_samples or round(EMBEDDED_PROBLEMS * dataset.eval_fraction)
            evaluation, eval_source = _embedded(dataset, "evaluation", count, dropped), "embedded"
        else:
            evaluation, eval_source = _read(
                dataset, eval_path, dataset.eval_split, dataset.eval_samples, "dataset.eval_path", dropped, notices
            )
        if dataset.path == "embedded":
            train, source = _embedded(dataset, "train", dataset.max_samples or EMBEDDED_PROBLEMS, dropped), "embedded"
        else:
            train, source = _read(
                dataset, dataset.path, dataset.split, dataset.max_samples, "dataset.path", dropped, notices,
                leave_out=contents_of(evaluation),
            )  # fmt: skip
        source = f"{source}; evaluation: {eval_source}"
    for name, rows in (("train on", train), ("evaluate on", evaluation)):
        if not rows:
            raise DataError(f"{source}: no problem is left to {name}{_reasons(dropped)}.")
    digest = hashlib.sha1(usedforsecurity=False)
    for row in [*train, {}, *evaluation]:
        fields = [row.get(key) for key in ("pid", "question", "choices", "unit", "precision", "answer")]
        digest.update(repr([*fields, picture_digest(row) if row else None]).encode())
    return ProblemSets(
        _dataset(train),
        _dataset(evaluation),
        dict(dropped),
        digest.hexdigest()[:16],
        source,
        list(dict.fromkeys(notices)),
    )


def licence_notice(dataset: DatasetParams) -> str | None:
    """What has to be said before training on MathVista, whose licence keeps it for evaluation; None
    otherwise.
    """
    return MATHVISTA_LICENCE if "mathvista" in dataset.path.lower() else None


def _embedded(dataset: DatasetParams, part: str, count: int, dropped: Counter[str]) -> list[dict]:
    from nbhelpers.problems.drawn import make_problems

    try:
        drawn = make_problems(count, seed=dataset.seed, part=part)
    except ValueError as error:
        raise DataError(f"dataset.max_samples: {error}") from None
    kept = [row for row in drawn if dataset.answer_types is None or row["answer_type"] in dataset.answer_types]
    if len(kept) < len(drawn):
        dropped[OUTSIDE_ANSWER_TYPES] += len(drawn) - len(kept)
    if kept and max(kept[0]["image"].size) <= dataset.image_size:
        return kept  # drawn as RGB, all in one size
    return [row | {"image": prepare_image(row["image"], dataset.image_size)} for row in kept]


def _read(
    dataset: DatasetParams,
    path: str,
    split: str | None,
    limit: int | None,
    key: str,
    dropped: Counter[str],
    notices: list[str],
    leave_out: frozenset[Hashable] = frozenset(),
) -> tuple[list[dict], str]:
    """The usable rows of a source in a seeded order, at most `limit`; the others are counted in `dropped`."""
    source = open_source(path, split, key)
    notices += source.notices
    if key == "dataset.path" and "decoded_image" in source.columns:  # a copy of MathVista by another name
        notices.append(MATHVISTA_LICENCE)
    order = list(range(len(source.rows)))
    random.Random(dataset.seed).shuffle(order)
    rows: list[dict] = []
    names: Counter[str] = Counter()
    for index in order:
        if limit is not None and len(rows) == limit:
            break
        try:
            row = source.problem(index, dataset.image_size)
            if dataset.answer_types is not None and row["answer_type"] not in dataset.answer_types:
                raise Unusable(OUTSIDE_ANSWER_TYPES)
            if leave_out and not leave_out.isdisjoint(contents_of([row])):
                raise Unusable(IN_EVALUATION)
        except Unusable as reason:
            dropped[str(reason)] += 1
            continue
        names[row["pid"]] += 1
        if names[row["pid"]] > 1:  # predictions before and after are paired by pid
            row["pid"] = f"{row['pid']}-{index}"
        rows.append(row)
    if not rows:
        raise DataError(f"{key}: none of the {len(order)} rows of {source.name} can be used{_reasons(dropped)}.")
    return rows, source.name


def _reasons(dropped: Mapping[str, int]) -> str:
    if not dropped:
        return ""
    return ": " + ", ".join(f"{reason} ({count})" for reason, count in Counter(dropped).most_common())


def _dataset(rows: Sequence[dict]) -> datasets.Dataset:
    import datasets

    text = datasets.Value("string")
    features = datasets.Features(
        {
            "pid": text,
            "question": text,
            "image": datasets.Image(),
            "choices": datasets.List(text),
            "unit": text,
            "precision": datasets.Value("float64"),
            "answer": text,
            "question_type": text,
            "answer_type": text,
            "metadata": datasets.Json(),
        }
    )
    return datasets.Dataset.from_list([{key: row[key] for key in features} for row in rows], features=features)
