"""The recipe of the shipped weights: ``python -m nbhelpers.embedded.recipe --out DIR`` makes them again from nothing.

Two rounds of supervised learning on drawn problems of the part "warmup". In the first the model describes each picture
and works its problem out: the describing, with its many words about what is where, teaches the tower to see. In the
second it is taught the habits of :mod:`nbhelpers.embedded.habits`, mostly to glance; the skill to work stays.
``recipe.json`` beside the weights says how they were made and what they reach.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import platform
import random
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbhelpers.embedded import habits, model as architecture
from nbhelpers.problems.drawn import KINDS, make_problems

if TYPE_CHECKING:
    import torch
    from transformers import Gemma3ForConditionalGeneration, Gemma3Processor


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the recipe can be told: rounds and their learning rates, pictures a step, problems to measure on."""

    trunk_steps: int = 6000
    habit_steps: int = 500
    pictures: int = 128  # a step; each is described and answered
    trunk_rate: float = 2e-3
    habit_rate: float = 7e-4
    p_work: float = habits.P_WORK
    problems: int = 512
    seed: int = 0


# --- texts


def prompt_of(problem: dict) -> str:
    """The prompt that the policy will meet: the warm-up teaches with no other."""
    from nbhelpers.data import prompt_text
    from nbhelpers.params import RewardParams

    return prompt_text(problem, RewardParams())


def tokenizer_texts(seed: int = 0, problems: int = 900) -> list[str]:
    """All sorts of texts of the warm-up, for the tokenizer to learn its vocabulary from."""
    rows = make_problems(problems, seed=f"tokenizer {seed}", part="warmup")
    texts = [f"user\n{prompt_of(row)}\nmodel\n" for row in rows]
    texts += [habits.written(row, works, style) for row in rows for works in (True, False) for style in habits.STYLES]
    return texts + [f"user\n{habits.DESCRIBE}\nmodel\n{row['metadata']['description']}" for row in rows]


def turns(prompts: Sequence[str], processor: Gemma3Processor) -> list[str]:
    """Prompts in the chat template, up to where the model's turn begins."""
    messages = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}] for text in prompts]
    return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


# --- lessons


class Lessons:
    """Step -> a batch of lessons, drawn when it is asked for; a step is the same wherever it is drawn.

    Two rows a picture: its description, and an answer to its problem, which works or, in the second round, has habits.
    """

    def __init__(self, processor: Gemma3Processor, settings: Settings, first: int, steps: int, with_habits: bool):
        self.processor, self.settings, self.with_habits = processor, settings, with_habits
        self.first, self.steps = first, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        """Pixels (pictures, 3, size, size) as bytes; ids, and labels that are -100 but in the answers (2 x pictures, length)."""
        import numpy as np
        import torch

        if step >= self.steps:
            raise IndexError(step)
        seed = f"{self.settings.seed} {self.first + step}"
        rng = random.Random(seed)
        problems = make_problems(self.settings.pictures, seed=seed, part="warmup")
        size = (architecture.IMAGE_SIZE, architecture.IMAGE_SIZE)
        pixels = np.stack([np.asarray(problem["image"].resize(size, 2)) for problem in problems])
        texts = [(habits.DESCRIBE, problem["metadata"]["description"]) for problem in problems]
        texts += [(prompt_of(problem), self._answer(problem, rng)) for problem in problems]
        ids, labels = self._encode(*zip(*texts, strict=True))
        return {"pixels": torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), "ids": ids, "labels": labels}

    def _answer(self, problem: dict, rng: random.Random) -> str:
        if self.with_habits:
            return habits.taught(problem, rng, self.settings.p_work)
        return habits.written(problem, True, rng.choices(habits.STYLES, habits.NEAT)[0])

    def _encode(self, prompts: Sequence[str], answers: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        image, tokenizer = self.processor.full_image_sequence, self.processor.tokenizer
        before = [turn.replace(tokenizer.boi_token, image) for turn in turns(prompts, self.processor)]
        encode = lambda texts: tokenizer(list(texts), add_special_tokens=False)["input_ids"]  # noqa: E731
        starts = encode(before)
        ends = encode(f"{answer}<end_of_turn>" for answer in answers)
        length = max(len(start) + len(end) for start, end in zip(starts, ends, strict=True))
        ids = torch.full((len(starts), 8 * math.ceil(length / 8)), tokenizer.pad_token_id)
        labels = torch.full_like(ids, -100)
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            ids[row, : len(start) + len(end)] = torch.tensor(start + end)
            labels[row, len(start) : len(start) + len(end)] = torch.tensor(end)
        return ids, labels


def lesson_loss(model: Gemma3ForConditionalGeneration, lessons: dict[str, torch.Tensor]) -> torch.Tensor:
    """The model's own loss; but a picture goes through the tower once for both of its rows, and one mask serves all rows.

    transformers builds a mask a row from the token types, which takes as long as the forward pass of so small a model.
    """
    import torch

    ids, labels = lessons["ids"], lessons["labels"]
    image = ids[:1] == model.config.image_token_index  # at the same places in every row: the picture comes first
    mask = torch.ones_like(ids[0]).new_ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    mask = (mask | (image.T & image))[None, None]
    features = model.model.get_image_features(lessons["pixels"].float() / 127.5 - 1).pooler_output
    embeddings = model.model.language_model.embed_tokens(ids)
    embeddings = embeddings.masked_scatter((ids == model.config.image_token_index)[..., None], torch.cat([features] * 2))
    output = model.model.language_model(
        inputs_embeds=embeddings,
        attention_mask={"full_attention": mask, "sliding_attention": mask},
        position_ids=torch.arange(ids.shape[1], device=ids.device)[None],
        use_cache=False,
    )
    first = int(image.sum()) - 1
    logits = model.lm_head(output.last_hidden_state[:, first:-1])
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, first + 1 :].flatten())


def teach(
    model: Gemma3ForConditionalGeneration, lessons: Lessons, learning_rate: float, title: str, warm: int = 60
) -> float:
    """One round: AdamW over all lessons with a cosine schedule. Gives the mean loss of the last 30 steps."""
    import torch
    from tqdm.auto import tqdm

    device = next(model.parameters()).device
    workers = max(0, (os.cpu_count() or 1) - 1) if device.type == "cuda" else 0
    loader = torch.utils.data.DataLoader(lessons, batch_size=None, num_workers=workers, pin_memory=workers > 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    half = math.pi / max(1, len(lessons))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / warm) * (0.5 + 0.5 * math.cos(half * step))
    )
    losses: list[torch.Tensor] = []
    model.train()
    for batch in (progress := tqdm(loader, desc=title, unit="step")):
        loss = lesson_loss(model, {name: part.to(device, non_blocking=True) for name, part in batch.items()})
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses = [*losses[-29:], loss.detach()]
        if len(losses) < 30 or progress.n % 50 == 0:  # asking for a figure makes a GPU wait
            progress.set_postfix(loss=f"{loss.item():.3f}")
    model.eval()
    return round(float(sum(losses)) / len(losses), 4)


# --- measuring


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
    """The model's completions to the problems' real prompts, greedy at temperature 0, each begun with the words `begun`."""
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


# --- the whole


def rounds(processor: Gemma3Processor, settings: Settings) -> Iterator[tuple[str, Lessons, float]]:
    """The two rounds: their titles, lessons and learning rates."""
    trunk = Lessons(processor, settings, 0, settings.trunk_steps, with_habits=False)
    yield "seeing and working", trunk, settings.trunk_rate
    second = Lessons(processor, settings, settings.trunk_steps, settings.habit_steps, with_habits=True)
    yield "habits", second, settings.habit_rate


def rebuild(out_dir: str | Path, settings: Settings = Settings()) -> dict[str, Any]:  # noqa: B008 (frozen)
    """Make the embedded checkpoint from nothing, write it to `out_dir`, and give (and save) its recipe and figures.

    On one machine the same settings give the same weights; elsewhere the figures agree within noise.
    """
    import torch

    out_dir, started = Path(out_dir), time.time()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    processor = architecture.make_processor(architecture.make_tokenizer(tokenizer_texts(settings.seed)))
    model = architecture.make_model(processor.tokenizer, settings.seed).to(device)
    losses = {title: teach(model, lessons, rate, title) for title, lessons, rate in rounds(processor, settings)}
    seconds = round(time.time() - started)
    torch.set_float32_matmul_precision("highest")
    architecture.round_to_bfloat16(model)
    architecture.save(model, processor, out_dir)
    recipe = {
        "made": date.today().isoformat(),
        "seconds": seconds,
        **_circumstances(device, model),
        "settings": dataclasses.asdict(settings),
        "last_losses": losses,
        "sha256": hashlib.sha256((out_dir / "model.safetensors").read_bytes()).hexdigest(),
        "figures": figures(model, processor, settings.problems, settings.seed),
    }
    (out_dir / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")
    return recipe


def _circumstances(device: torch.device, model: Gemma3ForConditionalGeneration) -> dict[str, Any]:
    import torch
    import transformers

    card = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return {
        "machine": f"{platform.machine()}, {card}",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: parse, rebuild, print the recipe."""
    parser = argparse.ArgumentParser(prog="python -m nbhelpers.embedded.recipe", description="Rebuild the embedded model.")
    parser.add_argument("--out", required=True, type=Path, help="folder that receives the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print(json.dumps(rebuild(options.out, Settings(seed=options.seed)), indent=1))


if __name__ == "__main__":
    main()
