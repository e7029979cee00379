"""Asking a problem: the words beside its picture, the conversation, and the rows that TRL trains on."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nbhelpers.params import RewardParams, RunParams
from nbhelpers.problems.sources import without_bars

if TYPE_CHECKING:
    import datasets


def prompt_text(problem: Mapping[str, Any], reward: RewardParams | None) -> str:
    """The text beside the picture: question, choices, unit, what kind of answer, and the output format; with None for
    `reward` the plain prompt, which asks for the answer and no format. Both stay in the embedded model's vocabulary.

    The wording is part of every result: the embedded model was taught with it, and figures compare only under it.
    """
    lines = [problem["question"].strip()]
    choices = problem.get("choices")
    if choices:
        lines += ["Choices:", *(f"({chr(ord('A') + place)}) {choice}" for place, choice in enumerate(choices))]
    if problem.get("unit"):
        lines.append(f"Unit: {problem['unit']}")
    lines += _answer_hint(problem)
    if reward is None:
        return "\n".join([*lines, "Answer the question."])
    lines.append(
        f"Provide your reasoning between {reward.reasoning_start} and {reward.reasoning_end} "
        f"and then your final answer between {reward.solution_start} and {reward.solution_end}."
    )
    return "\n".join(lines)


def _answer_hint(problem: Mapping[str, Any]) -> list[str]:
    if problem.get("question_type") == "multi_choice":
        return ["Answer with the letter of the right choice."]
    answer_type, precision = problem.get("answer_type"), problem.get("precision")
    if answer_type == "integer":
        return ["Answer with an integer."]
    if answer_type == "float" and precision:
        places = int(precision)
        return [f"Answer with a number with {places} decimal place{'s' if places > 1 else ''}."]
    if answer_type == "float":
        return ["Answer with a number."]
    if answer_type == "list":
        return ["Answer with a list, such as [1, 2, 3]."]
    return []


def conversation(problem: Mapping[str, Any], reward: RewardParams | None) -> list[dict[str, Any]]:
    """The prompt as a chat: one user turn, the picture first, then `prompt_text`."""
    text = {"type": "text", "text": prompt_text(problem, reward)}
    return [{"role": "user", "content": [{"type": "image"}, text]}]


def kind_of(problem: Mapping[str, Any]) -> str:
    """What results are grouped by: the metadata's `task` (MathVista's), else its `category`, else the answer type."""
    metadata = problem.get("metadata") or {}
    return str(metadata.get("task") or metadata.get("category") or problem.get("answer_type") or "problem")


def grpo_dataset(problems: datasets.Dataset, params: RunParams) -> datasets.Dataset:
    """The problems as TRL's GRPOTrainer takes them: `prompt` (a conversation), `image`, and the rewards' columns.

    Rewards receive every other column as a keyword list, a value per completion: `answer`, `choices`, `unit`,
    `precision`, `question_type`, `answer_type`, `pid`, `kind`, `question`, `metadata`.
    """
    import datasets

    rows = problems.remove_columns("image")  # decoding the pictures is not needed for their prompts
    columns = {"prompt": [conversation(row, params.reward) for row in rows], "kind": [kind_of(row) for row in rows]}
    features = datasets.Features({"prompt": datasets.Json(), "kind": datasets.Value("string")})
    with without_bars():  # rows that were chosen from a larger set are laid out anew
        return datasets.concatenate_datasets([problems, datasets.Dataset.from_dict(columns, features)], axis=1)


def decode_once(dataset: datasets.Dataset, max_pictures: int = 64) -> datasets.Dataset:
    """The dataset with the last `max_pictures` decoded pictures kept.

    GRPO asks for each row `num_generations` times per step. Rows with the same picture share one PIL image, which
    nobody may draw on.
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
