"""TODO."""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nbhelpers.embedded.model import (
    DESCRIBE,
    FORMAT_SHARE,
    asked,
    make_model,
    make_processor,
    make_tokenizer,
    save,
    styles,
    target_text,
)
from nbhelpers.problems import KINDS, make_problems

if TYPE_CHECKING:
    import torch
    from transformers import Gemma3ForConditionalGeneration, Gemma3Processor


class Round(NamedTuple):
    """A stretch of the warm-up with its own AdamW and cosine schedule.

    `describing` is the share of lessons that describe the picture instead of answering: at the start, and from half the
    schedule on. `first` is where in the stream of warm-up problems the round begins.
    """

    steps: int
    learning_rate: float
    describing: tuple[float, float]
    first: int
    horizon: int
    kinds: tuple[str, ...] = KINDS


# Describing comes first: its many words about what is where teach the tower to see, which the few figures of an answer
# alone do slowly. Where things are is learnt before what colour they have; the later rounds are there for the colours.
# The last one breaks off early on purpose: a settled model answers 79 % right when greedy, and 60 steps of GRPO then
# add nothing that 512 problems could show (+0.010, 95 % interval -0.020 to 0.039; 2026-11-23, 2 CPU cores).
ROUNDS = (
    Round(560, 2e-3, (1.0, 0.0), first=0, horizon=560),
    Round(160, 1e-3, (0.4, 0.4), first=560, horizon=160),
    Round(120, 2e-3, (0.5, 0.5), first=560, horizon=120, kinds=("count", "tallest")),
    Round(50, 1.5e-3, (0.25, 0.25), first=900, horizon=200),
)


def _batch(
    processor: Gemma3Processor, images: Sequence, prompts: Sequence[str], targets: Sequence[str] | None = None
) -> dict:
    """Model inputs for a picture and a prompt each (left-padded), or with targets for whole turns and their labels."""
    messages = [
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}] for prompt in prompts
    ]
    texts = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    if targets is not None:
        texts = [f"{text}{target}<end_of_turn>" for text, target in zip(texts, targets, strict=True)]
    inputs = processor(
        images=[[image] for image in images],
        text=texts,
        padding=True,
        padding_side="left" if targets is None else "right",
        add_special_tokens=False,
        return_tensors="pt",
    )
    if targets is not None:
        labels = inputs["input_ids"].clone()
        labels[inputs["attention_mask"] == 0] = -100
        start = processor.tokenizer.convert_tokens_to_ids("<start_of_turn>")
        header = len(processor.tokenizer("<start_of_turn>model\n", add_special_tokens=False)["input_ids"])
        for row, ids in zip(labels, inputs["input_ids"], strict=True):
            row[: int((ids == start).nonzero()[-1]) + header] = -100
        inputs["labels"] = labels
    return inputs


def _lesson(processor: Gemma3Processor, problems: Sequence[dict], describing: float, rng: random.Random) -> dict:
    prompts, targets = asked(problems), []
    for place, (problem, style) in enumerate(zip(problems, styles(len(problems), rng), strict=True)):
        targets.append(target_text(problem, style))
        if rng.random() < describing:
            prompts[place], targets[place] = DESCRIBE, problem["metadata"]["description"]
    return _batch(processor, [problem["image"] for problem in problems], prompts, targets)


def warm_up(
    model: Gemma3ForConditionalGeneration,
    processor: Gemma3Processor,
    stretch: Round,
    *,
    seed: int = 0,
    batch_size: int = 64,
) -> float:
    """Teach the model for one round of supervised learning and give the mean loss of its last 30 steps."""
    import torch
    from tqdm.auto import tqdm

    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=stretch.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / 40) * (0.55 + 0.45 * math.cos(math.pi * min(1, step / stretch.horizon))),
    )
    losses: list[float] = []
    model.train()
    progress = tqdm(range(stretch.steps), desc="warm-up", unit="step")
    for step in progress:
        problems = make_problems(batch_size, f"{seed}-{stretch.first + step}", stretch.kinds, part="warmup")
        start, later = stretch.describing
        describing = start + (later - start) * min(1.0, step / (0.5 * stretch.horizon))
        loss = model(**_lesson(processor, problems, describing, rng)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        progress.set_postfix(loss=f"{losses[-1]:.3f}")
    return sum(losses[-30:]) / len(losses[-30:])


def answer(
    model: Gemma3ForConditionalGeneration,
    processor: Gemma3Processor,
    problems: Sequence[dict],
    *,
    temperature: float = 0.0,
    max_new_tokens: int = 48,
    batch_size: int = 128,
) -> list[str]:
    """The model's completions to the problems' real prompts, greedy at temperature 0."""
    import torch

    if temperature:
        sampling = dict(do_sample=True, temperature=temperature, top_k=0, top_p=1.0)
    else:
        sampling = dict(do_sample=False, top_k=None, top_p=None)
    completions: list[str] = []
    model.eval()
    for start in range(0, len(problems), batch_size):
        part = problems[start : start + batch_size]
        inputs = _batch(processor, [problem["image"] for problem in part], asked(part))
        with torch.no_grad():
            output = model.generate(**inputs, max_new_tokens=max_new_tokens, **sampling)
        new = output[:, inputs["input_ids"].shape[1] :]
        completions += processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    return completions


def measure(
    model: Gemma3ForConditionalGeneration,
    processor: Gemma3Processor,
    problems: Sequence[dict],
    temperature: float = 0.0,
) -> dict[str, float]:
    """Accuracy, overall and by kind, and format rate of the model's answers to the problems."""
    from nbhelpers.grading import check_format, grade

    completions = answer(model, processor, problems, temperature=temperature)
    correct: dict[str, list[bool]] = {}
    formatted = 0
    for problem, completion in zip(problems, completions, strict=True):
        fields = {key: problem[key] for key in ("choices", "unit", "precision", "question_type", "answer_type")}
        verdict = grade(completion, problem["answer"], **fields)
        correct.setdefault(problem["metadata"]["category"], []).append(verdict.correct)
        shape = check_format(completion)
        formatted += shape.reasoning and shape.solution
    figures = {"accuracy": sum(map(sum, correct.values())) / len(problems), "format_rate": formatted / len(problems)}
    figures |= {f"accuracy/{kind}": sum(hits) / len(hits) for kind, hits in sorted(correct.items())}
    return {name: round(value, 4) for name, value in figures.items()}


def _round_to_bfloat16(model: torch.nn.Module) -> None:
    # so that the figures below are those of the weights on disk, on CPU and GPU alike
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))


def rebuild(
    out_dir: str | Path, seed: int = 0, rounds: Sequence[Round] = ROUNDS, batch_size: int = 64, problems: int = 512
) -> dict:
    """Make the embedded checkpoint from nothing, write it to `out_dir`, and give (and save) its recipe and figures.

    The result is the same for the same seed, number of torch threads and versions. On 2 cores it takes minutes.

    Args:
        out_dir: folder for the checkpoint and its ``recipe.json``.
        seed: of initialisation, drawings and order.
        rounds: of the supervised warm-up; fewer and shorter ones leave GRPO more to improve.
        batch_size: problems a step.
        problems: unseen evaluation problems that the figures are measured on.
    """
    out_dir = Path(out_dir)
    started = time.time()
    tokenizer = make_tokenizer(seed)
    processor = make_processor(tokenizer)
    model = make_model(tokenizer, seed)
    losses = []
    for stretch in rounds:
        losses.append(round(warm_up(model, processor, stretch, seed=seed, batch_size=batch_size), 4))
        _round_to_bfloat16(model)
    save(model, processor, out_dir)
    return _write_recipe(out_dir, model, processor, seed, rounds, problems, time.time() - started, losses)


def _write_recipe(
    out_dir: Path,
    model: Gemma3ForConditionalGeneration,
    processor: Gemma3Processor,
    seed: int,
    rounds: Sequence[Round],
    problems: int,
    seconds: float,
    losses: Sequence[float],
) -> dict:
    recipe = {
        "made": date.today().isoformat(),
        "seconds": round(seconds),
        **_circumstances(model),
        "seed": seed,
        "format_share": FORMAT_SHARE,
        "rounds": [stretch._asdict() | {"last_loss": loss} for stretch, loss in zip(rounds, losses, strict=True)],
        "figures": _figures(model, processor, problems, seed),
    }
    (out_dir / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")
    return recipe


def _circumstances(model: Gemma3ForConditionalGeneration) -> dict:
    import torch
    import transformers

    return {
        "machine": f"CPU, {platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def _figures(model: Gemma3ForConditionalGeneration, processor: Gemma3Processor, problems: int, seed: int) -> dict:
    import torch

    unseen = make_problems(problems, seed=seed, part="evaluation")
    torch.manual_seed(seed)
    return {
        "problems": problems,
        "greedy": measure(model, processor, unseen),
        "temperature 1": measure(model, processor, unseen, temperature=1.0),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m nbhelpers.embedded.recipe", description="Rebuild the embedded model."
    )
    parser.add_argument("--out", required=True, type=Path, help="folder that receives the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print(json.dumps(rebuild(options.out, seed=options.seed), indent=1))
