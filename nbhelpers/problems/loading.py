"""`load_problems`: from the section `dataset` to the two sets of a run, with what was left out and why."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from nbhelpers.grading import PROBLEM_COLUMNS
from nbhelpers.params import DatasetParams
from nbhelpers.problems.audit import Looks, Overlap, repetitions
from nbhelpers.problems.cutting import cut_problems, picture_digest
from nbhelpers.problems.drawn import make_problems
from nbhelpers.problems.pictures import Unusable, prepare_image
from nbhelpers.problems.rows import problem_from
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

    `dropped` counts the rows that could not be used by reason, and `dropped_rows` lists them for `dropped.jsonl`:
    `source` (the parameter that names it), `row` (its number from 0), `pid`, `reason`. `fingerprint` is a digest of the
    contents of both sets (the same problems give the same fingerprint on every machine), `notices` is what a reader of
    the results should know, `revisions` the commits on the hub by the parameter that names the source. `overlaps` are
    problems that are one: of two sources, a training problem that was taken out because it is in the evaluation set
    too; of one source, two rows that the cut left on the same side.
    """

    train: datasets.Dataset
    evaluation: datasets.Dataset
    dropped: dict[str, int]
    fingerprint: str
    source: str
    notices: list[str] = field(default_factory=list)
    revisions: dict[str, str] = field(default_factory=dict)
    overlaps: list[Overlap] = field(default_factory=list)
    dropped_rows: list[dict[str, Any]] = field(default_factory=list)

    def as_manifest(self) -> dict[str, Any]:
        """The manifest's entry `dataset`."""
        return {
            "path": self.source,
            "fingerprint": self.fingerprint,
            "train": len(self.train),
            "evaluation": len(self.evaluation),
            "dropped": self.dropped,
            "revisions": self.revisions,
            "overlaps": dict(Counter(overlap.why for overlap in self.overlaps)),
        }


def load_problems(dataset: DatasetParams) -> ProblemSets:
    """Load, check and cut the problems of a run. The same parameters give the same sets in the same order.

    Raises `DataError` with a sentence where the source cannot be read, or leaves nothing to train on or to evaluate.
    """
    reader = _Reader(dataset)
    if dataset.eval_path is not None or dataset.eval_split is not None:
        path = dataset.eval_path or dataset.path
        evaluation, held_out = reader.rows("dataset.eval_path", path, dataset.eval_split, dataset.eval_samples)
        seen = Looks(evaluation)
        train, source = reader.rows("dataset.path", dataset.path, dataset.split, dataset.max_samples, leave_out=seen)
        source = f"{source}; evaluation: {held_out}"
    elif dataset.path == "embedded":  # drawn as two sets that share no picture
        total = dataset.max_samples or EMBEDDED_PROBLEMS
        held_back = max(1, round(total * dataset.eval_fraction))
        train, source = reader.drawn("train", total - held_back), "embedded"
        evaluation = reader.drawn("evaluation", min(held_back, dataset.eval_samples or held_back))
    else:
        rows, source = reader.rows("dataset.path", dataset.path, dataset.split, dataset.max_samples)
        questions = [row["question"] for row in rows]
        cut = cut_problems(reader.one_picture_each(rows), questions, dataset.eval_fraction, dataset.seed)
        reader.notices += cut.notices
        train = [rows[place] for place in cut.train]
        evaluation = [rows[place] for place in cut.evaluation][: dataset.eval_samples]
    for name, rows in (("train on", train), ("evaluate on", evaluation)):
        if not rows:
            raise DataError(f"{source}: no problem is left to {name}{_reasons(reader.dropped)}.")
    return ProblemSets(
        train=_dataset(train),
        evaluation=_dataset(evaluation),
        dropped=dict(Counter(row["reason"] for row in reader.dropped)),
        dropped_rows=reader.dropped,
        fingerprint=_fingerprint(train, evaluation),
        source=source,
        notices=list(dict.fromkeys(reader.notices)),
        revisions=reader.revisions,
        overlaps=reader.overlaps,
    )


def licence_notice(dataset: DatasetParams) -> str | None:
    """What has to be said before training on MathVista, whose licence keeps it for evaluation; None otherwise."""
    return MATHVISTA_LICENCE if "mathvista" in dataset.path.lower() else None


class _Reader:
    """Reads the sources of one run, and keeps what was dropped and what has to be said."""

    def __init__(self, dataset: DatasetParams) -> None:
        self.dataset = dataset
        self.dropped: list[dict[str, Any]] = []
        self.revisions: dict[str, str] = {}
        self.notices = [notice] if (notice := licence_notice(dataset)) else []
        self.overlaps: list[Overlap] = []

    def one_picture_each(self, rows: Sequence[dict]) -> list[int]:
        """A number for each row, the same for those that are one picture, be it saved again, scaled or recoloured."""
        first: dict[str, int] = {}
        exact = [first.setdefault(picture_digest(row), place) for place, row in enumerate(rows)]
        numbers, found = list(exact), repetitions(rows)
        for later, earlier, _ in found:
            if (old := numbers[later]) != (new := numbers[earlier]):
                numbers = [new if number == old else number for number in numbers]
        if max(Counter(numbers).values()) > len(rows) / 2:  # of a generator, say, whose pictures are all alike
            self.notices.append("The pictures look so much alike that only equal ones are kept apart.")
            return exact
        self.overlaps = [
            Overlap(rows[later], rows[earlier], "kept on one side", value) for later, earlier, value in found
        ]
        return numbers

    def drawn(self, part: str, number: int) -> list[dict]:
        """`number` embedded problems of a part, less those of other answer types."""
        types, size = self.dataset.answer_types, self.dataset.image_size
        try:
            drawn = make_problems(number, seed=self.dataset.seed, part=part)
        except ValueError as error:
            raise DataError(f"dataset.max_samples: {error}") from None
        kept = [row for row in drawn if types is None or row["answer_type"] in types]
        for place, row in enumerate(drawn):
            if types is not None and row["answer_type"] not in types:
                self._drop(f"embedded, {part}", place, row["pid"], OUTSIDE_ANSWER_TYPES)
        if kept and max(kept[0]["image"].size) <= size:
            return kept  # drawn as RGB, all in one size
        return [row | {"image": prepare_image(row["image"], size)} for row in kept]

    def rows(
        self, key: str, path: str, split: str | None, limit: int | None, leave_out: Looks | None = None
    ) -> tuple[list[dict], str]:
        """At most `limit` usable rows of the source that the parameter `key` names, in a seeded order; its name."""
        trains = key == "dataset.path"
        if path == "embedded":
            default = EMBEDDED_PROBLEMS if trains else round(EMBEDDED_PROBLEMS * self.dataset.eval_fraction)
            return self.drawn("train" if trains else "evaluation", limit or default), "embedded"
        own = trains or self.dataset.eval_path is None
        source = open_source(path, split, key, self.dataset.revision if own else self.dataset.eval_revision)
        if source.revision:
            self.revisions[key] = source.revision
        self.notices += source.notices
        if trains and "decoded_image" in source.columns:  # a copy of MathVista by another name
            self.notices.append(MATHVISTA_LICENCE)
        order = list(range(len(source.rows)))
        random.Random(self.dataset.seed).shuffle(order)
        rows: list[dict] = []
        pids: set[str] = set()
        renamed = 0
        for index in order:
            if limit is not None and len(rows) == limit:
                break
            given = None
            try:
                given = source.rows[index]
                row = problem_from(given, str(index), self.dataset.image_size, source.folders)
                if self.dataset.answer_types is not None and row["answer_type"] not in self.dataset.answer_types:
                    raise Unusable(OUTSIDE_ANSWER_TYPES)
                if leave_out and (overlap := leave_out.find(row)):
                    self.overlaps.append(overlap)
                    raise Unusable(IN_EVALUATION)
            except Exception as error:  # one bad row, however bad, is one row
                reason = str(error) if isinstance(error, Unusable) else f"unreadable row ({type(error).__name__})"
                self._drop(key, index, given.get("pid") if isinstance(given, dict) else None, reason)
                continue
            if row["pid"] in pids:  # predictions before and after are paired by pid
                renamed += 1
                row["pid"] = next(f"{row['pid']}-{n}" for n in count(index) if f"{row['pid']}-{n}" not in pids)
            pids.add(row["pid"])
            rows.append(row)
        if renamed:
            self.notices.append(
                f"{renamed} rows of {source.name} had the pid of another and were given one of their own."
            )
        if not rows:
            raise DataError(
                f"{key}: none of the {len(order)} rows of {source.name} can be used{_reasons(self.dropped)}."
            )
        return rows, source.name

    def _drop(self, source: str, row: int, pid: Any, reason: str) -> None:
        named = pid if isinstance(pid, str | int) else None
        self.dropped.append({"source": source, "row": row, "pid": named and str(named)[:200], "reason": reason})


def _reasons(dropped: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter(row["reason"] for row in dropped).most_common()
    return ": " + ", ".join(f"{reason} ({number})" for reason, number in counts) if counts else ""


def _fingerprint(train: Sequence[dict], evaluation: Sequence[dict]) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    for row in [*train, {}, *evaluation]:
        fields = [row.get(key) for key in ("pid", *PROBLEM_COLUMNS)]
        digest.update(repr([*fields, picture_digest(row) if row else None]).encode())
    return digest.hexdigest()[:16]


def _dataset(rows: Sequence[dict]) -> datasets.Dataset:
    import datasets

    text = datasets.Value("string")
    features = datasets.Features(
        {
            "pid": text, "question": text, "image": datasets.Image(), "choices": datasets.List(text), "unit": text,
            "precision": datasets.Value("float64"), "answer": text, "question_type": text, "answer_type": text,
            "metadata": datasets.Json(),
        }
    )  # fmt: skip
    return datasets.Dataset.from_list([{key: row[key] for key in features} for row in rows], features=features)
