"""What a small model reaches on unseen drawn problems, left to itself or begun with one habit's first words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nbhelpers.embedded import habits
from nbhelpers.embedded.lessons import prompt_of, turns
from nbhelpers.problems import KINDS, make_problems

if TYPE_CHECKING:
    from transformers import Gemma3ForConditionalGeneration, Gemma3Processor


def answer(
    model: Gemma3ForConditionalGeneration,
    processor: Gemma3Processor,
    problems: Sequence[dict],
    *,
    temperature: float = 0.0,
    begun: str = "",
    max_new_tokens: int = 48,
    batch_size: int = 128,
) -> list[str]:
    """Completions to the problems' real prompts, greedy at temperature 0, each begun with the words `begun`."""
    import torch

    sampling: dict[str, Any] = dict(do_sample=False, top_k=None, top_p=None)
    if temperature:
        sampling = dict(do_sample=True, temperature=temperature, top_k=0, top_p=1.0)
    completions: list[str] = []
    for start in range(0, len(problems), batch_size):
        part = problems[start : start + batch_size]
        inputs = processor(
            images=[[problem["image"]] for problem in part],
            text=[turn + begun for turn in turns([prompt_of(problem) for problem in part], processor)],
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_tensors="pt",
        ).to(model.device)
        with torch.no_grad():
            output = model.generate(**inputs, max_new_tokens=max_new_tokens, **sampling)
        new = output[:, inputs["input_ids"].shape[1] :]
        completions += [begun + text for text in processor.tokenizer.batch_decode(new, skip_special_tokens=True)]
    return completions


def measure(problems: Sequence[dict], completions: Sequence[str]) -> dict[str, Any]:
    """Accuracy overall and by kind, format rate and share of worked answers."""
    from nbhelpers.grading import check_format, grade

    right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    for problem, completion in zip(problems, completions, strict=True):
        fields = {key: problem[key] for key in ("choices", "unit", "precision", "question_type", "answer_type")}
        right[problem["metadata"]["category"]].append(grade(completion, problem["answer"], **fields).correct)
    shapes = [check_format(completion) for completion in completions]
    share = lambda hits: round(sum(hits) / max(1, len(hits)), 4)  # noqa: E731
    return {
        "accuracy": share([hit for hits in right.values() for hit in hits]),
        "format": share([shape.reasoning and shape.solution for shape in shapes]),
        "works": share([habits.WORKS in completion for completion in completions]),
        "accuracy by kind": {kind: share(hits) for kind, hits in right.items()},
    }


def figures(model: Gemma3ForConditionalGeneration, processor: Gemma3Processor, count: int, seed: int) -> dict[str, Any]:
    """What the weights reach on unseen problems: left to themselves, and begun with one habit's first words."""
    import torch

    problems = make_problems(count, seed=seed, part="evaluation")
    torch.manual_seed(seed)
    ways: dict[str, dict[str, Any]] = {
        "greedy": {},
        "temperature 1": {"temperature": 1.0},
        "forced to work": {"begun": f"<REASONING>{habits.WORKS}"},
        "forced to glance": {"begun": f"<REASONING>{habits.GLANCES}"},
    }
    found = {name: measure(problems, answer(model, processor, problems, **way)) for name, way in ways.items()}
    return {"problems": count, **found}
