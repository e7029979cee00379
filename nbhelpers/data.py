"""Problems: loading them, cutting them into training and evaluation, and asking them.

A problem is a plain dictionary with MathVista's field names, whatever it was read from: `pid`, `question`,
`image` (PIL, RGB), `choices` (list or None), `unit`, `precision` (decimal places), `answer` (text),
`question_type` (`multi_choice` or `free_form`), `answer_type` (`text`, `integer`, `float` or `list`) and
`metadata`.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbhelpers.params import DatasetParams, RewardParams, RunParams
from nbhelpers.sources import DataError, Unusable, open_source, prepare_image

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


# --- asking


def prompt_text(problem: Mapping[str, Any], reward: RewardParams) -> str:
    """The text that stands beside the picture: question, choices, unit, what kind of answer, and the output
    format.

    The wording is part of every result: the embedded model was taught with it, and figures compare only under
    it.
    """
    lines = [problem["question"].strip()]
    choices = problem.get("choices")
    if choices:
        lines += ["Choices:", *(f"({chr(ord('A') + place)}) {choice}" for place, choice in enumerate(choices))]
    if problem.get("unit"):
        lines.append(f"Unit: {problem['unit']}")
    lines += _answer_hint(problem)
    lines.append(
        f"Provide your reasoning between {reward.reasoning_start} and {reward.reasoning_end} "
        f"and then your final answer between {reward.solution_start} and {reward.solution_end}."
    )
    return "\n".join(lines)


def _answer_hint(problem: Mapping[str, Any]) -> list[str]:
    if problem.get("question_type") == "multi_choice":
        return ["Answer with the letter of the right choice."]
    kind, precision = problem.get("answer_type"), problem.get("precision")
    if kind == "integer":
        return ["Answer with an integer."]
    if kind == "float" and precision:
        places = int(precision)
        return [f"Answer with a number with {places} decimal place{'s' if places > 1 else ''}."]
    if kind == "float":
        return ["Answer with a number."]
    if kind == "list":
        return ["Answer with a list, such as [1, 2, 3]."]
    return []


def conversation(problem: Mapping[str, Any], reward: RewardParams) -> list[dict[str, Any]]:
    """The prompt as a chat: one user turn, the picture first, then `prompt_text`."""
    text = {"type": "text", "text": prompt_text(problem, reward)}
    return [{"role": "user", "content": [{"type": "image"}, text]}]


def kind_of(problem: Mapping[str, Any]) -> str:
    """What results are grouped by: MathVista's `task`, else the `category`, of the metadata; else the answer
    type.
    """
    metadata = problem.get("metadata") or {}
    return str(metadata.get("task") or metadata.get("category") or problem.get("answer_type") or "problem")


def grpo_dataset(problems: datasets.Dataset, params: RunParams) -> datasets.Dataset:
    """The problems as TRL's GRPOTrainer takes them: `prompt` (a conversation), `image`, and the fields that
    rewards need.

    Rewards receive every other column as a keyword list, a value a completion: `answer`, `choices`, `unit`,
    `precision`, `question_type`, `answer_type`, `pid`, `kind`, `question`, `metadata`.
    """
    import datasets

    rows = problems.remove_columns("image")  # decoding the pictures is not needed for their prompts
    columns = {
        "prompt": [conversation(row, params.reward) for row in rows],
        "kind": [kind_of(row) for row in rows],
    }
    features = datasets.Features({"prompt": datasets.Json(), "kind": datasets.Value("string")})
    return datasets.concatenate_datasets([problems, datasets.Dataset.from_dict(columns, features)], axis=1)


def decode_once(dataset: datasets.Dataset, max_pictures: int = 64) -> datasets.Dataset:
    """The dataset with the last `max_pictures` decoded pictures kept: GRPO asks for each row `num_generations` times a step.

    Rows with the same picture share one PIL image, which nobody may draw on.
    """
    import datasets

    feature = datasets.Image()

    @functools.lru_cache(max_pictures)
    def decoded(content: bytes | None, path: str | None) -> Any:
        return feature.decode_example({"bytes": content, "path": path})

    def decode(batch: dict[str, list]) -> dict[str, list]:
        if "image" in batch:
            batch = {**batch, "image": [decoded(image["bytes"], image["path"]) for image in batch["image"]]}
        return batch

    return dataset.cast_column("image", datasets.Image(decode=False)).with_transform(decode)


# --- loading


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
            rows, source = _read(dataset, dataset.path, dataset.split, dataset.max_samples, "dataset.path", dropped, notices)
            cut = cut_problems(
                [_picture_digest(row) for row in rows], [row["question"] for row in rows], dataset.eval_fraction, dataset.seed
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
                leave_out=_contents(evaluation),
            )  # fmt: skip
        source = f"{source}; evaluation: {eval_source}"
    for name, rows in (("train on", train), ("evaluate on", evaluation)):
        if not rows:
            raise DataError(f"{source}: no problem is left to {name}{_reasons(dropped)}.")
    digest = hashlib.sha1(usedforsecurity=False)
    for row in [*train, {}, *evaluation]:
        fields = [row.get(key) for key in ("pid", "question", "choices", "unit", "precision", "answer")]
        digest.update(repr([*fields, _picture_digest(row) if row else None]).encode())
    return ProblemSets(_dataset(train), _dataset(evaluation), dict(dropped), digest.hexdigest()[:16], source, list(dict.fromkeys(notices)))


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
            if leave_out and not leave_out.isdisjoint(_contents([row])):
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


# --- cutting


def _picture_digest(row: Mapping[str, Any]) -> str:
    image = row["image"]
    return hashlib.sha1(f"{image.size}".encode() + image.tobytes(), usedforsecurity=False).hexdigest()


def _question_key(question: str) -> str:
    """The words of a question, so that case, spacing and punctuation do not make it another one."""
    return " ".join(re.findall(r"\w+", question.casefold())) or question.strip()


def _contents(rows: Iterable[Mapping[str, Any]]) -> frozenset[Hashable]:
    """What makes a training row a repetition: its picture, or its question with the same choices and answer.

    The second finds a problem whose picture was saved again in another size or format. A question alone is no
    mark of one problem between data sets: Geometry3K asks "Find x" of hundreds of pictures.
    """
    marks: set[Hashable] = set()
    for row in rows:
        marks.add(_picture_digest(row))
        marks.add((_question_key(row["question"]), tuple(row["choices"] or ()), row["answer"]))
    return frozenset(marks)


@dataclass(frozen=True)
class Cut:
    """Row numbers of both sides, the size of the largest group that had to stay together, and what a reader
    should know.
    """

    train: list[int]
    evaluation: list[int]
    largest_group: int
    notices: list[str]


def cut_problems(pictures: Sequence[Hashable], questions: Sequence[str], fraction: float, seed: int) -> Cut:
    """Hold back about `fraction` of the rows so that no picture and no question text is on both sides.

    Rows that share a picture or a question (in other words: apart from case, spacing and punctuation) stay
    together, and so do rows that are chained by such pairs. Where a few stock questions chain most rows
    together, so that less than half of `fraction` could be held back, only pictures are kept apart, and a
    notice says so.

    Raises `DataError` when all rows share one picture.
    """
    wanted = max(1, round(len(pictures) * fraction))
    keys = [_question_key(question) for question in questions]
    groups = _connected([[("picture", p), ("question", q)] for p, q in zip(pictures, keys, strict=True)])
    evaluation = _hold_back(groups, wanted, seed)
    notices = []
    if len(evaluation) < wanted / 2:
        stuck = max(map(len, groups))
        groups = _connected([[picture] for picture in pictures])
        evaluation = _hold_back(groups, wanted, seed)
        if not evaluation and len(groups) > 1:  # every picture has more rows than are wanted
            evaluation = set(min(groups, key=len))
        held = {keys[place] for place in evaluation}
        repeated = [place for place in range(len(keys)) if place not in evaluation and keys[place] in held]
        notices.append(
            f"Stock questions chain {stuck} of the {len(keys)} rows together, so only pictures are kept apart: "
            f"{len({keys[place] for place in repeated})} question texts are asked of training and of evaluation pictures."
        )
    if not evaluation:
        raise DataError(
            "dataset: the rows cannot be cut into training and evaluation, as they share one picture: give "
            "dataset.eval_path or dataset.eval_split for a separate evaluation set."
        )
    # Both sides in the order of the rows, which is already a seeded one.
    train = [place for place in range(len(keys)) if place not in evaluation]
    return Cut(train, sorted(evaluation), max(map(len, groups)), notices)


def _connected(marks: Sequence[Sequence[Hashable]]) -> list[list[int]]:
    """Rows that share a mark, directly or by way of others, as groups in the order of their first row."""
    parent = list(range(len(marks)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    first: dict[Hashable, int] = {}
    for place, row in enumerate(marks):
        for mark in row:
            a, b = sorted((root(first.setdefault(mark, place)), root(place)))
            parent[b] = a
    groups: dict[int, list[int]] = {}
    for place in range(len(marks)):
        groups.setdefault(root(place), []).append(place)
    return list(groups.values())


def _hold_back(groups: Sequence[Sequence[int]], wanted: int, seed: int) -> set[int]:
    """Whole groups in a seeded order until about `wanted` rows are reached; never all of them."""
    order = list(groups)
    random.Random(seed).shuffle(order)
    largest = max(order, key=len)
    order.remove(largest)  # the largest always trains: something must, and it fits evaluation least
    held: set[int] = set()
    for group in order:
        # A group may overshoot by half of itself, as then leaving it out would miss by more.
        if len(held) + len(group) / 2 <= wanted and len(held) < wanted:
            held.update(group)
    return held


# --- looking


def type_counts(problems: ProblemSets) -> list[dict[str, Any]]:
    """Problems by kind, question type and answer type in both sets: one row a combination, the most frequent
    first.
    """
    counts = {
        name: Counter((kind_of(row), row["question_type"], row["answer_type"]) for row in rows.remove_columns("image"))
        for name, rows in (("train", problems.train), ("evaluation", problems.evaluation))
    }
    total = counts["train"] + counts["evaluation"]
    return [
        dict(zip(("kind", "question_type", "answer_type"), key, strict=True))
        | {"train": counts["train"][key], "evaluation": counts["evaluation"][key]}
        for key, _ in total.most_common()
    ]


def guessing_rates(problems: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The accuracy of two policies that never look: one always gives the most frequent answer, one picks a
    choice by chance.

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
    import datasets

    def contents(rows: datasets.Dataset) -> tuple[set[bytes], set[str]]:
        # The stored PNG bytes are equal where the pixels are: one encoder wrote them all.
        stored = rows.cast_column("image", datasets.Image(decode=False))
        return {picture["bytes"] for picture in stored["image"]}, {_question_key(text) for text in rows["question"]}

    sides = contents(problems.train), contents(problems.evaluation)
    return {"pictures": len(sides[0][0] & sides[1][0]), "question texts": len(sides[0][1] & sides[1][1])}
