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
import random
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbhelpers.embedded import habits, model as architecture
from nbhelpers.problems.drawn import KINDS, make_problems

if TYPE_CHECKING:
    import torch
    from transformers import Gemma3ForConditionalGeneration, Gemma3Processor


@dataclasses.dataclass(frozen=True)
class Round:
    """A stretch of the warm-up: steps, pictures a step, the rates of AdamW and of Muon, and what is taught."""

    title: str
    steps: int
    pictures: int
    rate: float
    muon_rate: float
    with_habits: bool


ROUNDS = (
    Round("seeing and working", 7900, 64, 2e-3, 4.4e-3, with_habits=False),
    Round("habits", 400, 256, 1e-3, 2.2e-3, with_habits=True),
)


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

TAUGHT = (*KINDS, "table", "decimal", "mean")  # these twice as often: they need the sharpest eyes
FIRST_IMAGE_TOKEN = 5  # after <bos><start_of_turn>user\n and \n\n<start_of_image>
ROW = 128  # tokens; every batch has one shape, so that a GPU compiles it once

class Lessons:
    """Step -> a batch of lessons, drawn when it is asked for; a step is the same wherever it is drawn.

    Two rows a picture: in the first round its description and the worked answer to its problem, in the second two
    answers as the habits have them.
    """

    def __init__(self, processor: Gemma3Processor, stretch: Round, seed: int = 0):
        self.processor, self.stretch, self.seed = processor, stretch, seed

    def __len__(self) -> int:
        return self.stretch.steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        """Pixels (pictures, 3, size, size) as bytes; ids, and labels that are -100 but in the answers (2 x pictures, ROW)."""
        import numpy as np
        import torch

        if step >= len(self):
            raise IndexError(step)
        seed = f"{self.seed} {self.stretch.title} {step}"
        rng = random.Random(seed)
        problems = make_problems(self.stretch.pictures, seed=seed, part="warmup", kinds=TAUGHT)
        size = (architecture.IMAGE_SIZE, architecture.IMAGE_SIZE)
        pixels = np.stack([np.asarray(problem["image"].resize(size, 2)) for problem in problems])
        prompts = [prompt_of(problem) for problem in problems]
        if self.stretch.with_habits:
            answers = [habits.taught(problem, rng) for problem in problems * 2]
            ids, labels = self._encode(prompts * 2, answers)
        else:
            answers = [problem["metadata"]["description"] for problem in problems]
            answers += [habits.written(problem, True, rng.choices(habits.STYLES, habits.NEAT)[0]) for problem in problems]
            ids, labels = self._encode([habits.DESCRIBE] * len(problems) + prompts, answers)
        return {"pixels": torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), "ids": ids, "labels": labels}

    def _encode(self, prompts: Sequence[str], answers: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        image, tokenizer = self.processor.full_image_sequence, self.processor.tokenizer
        before = [turn.replace(tokenizer.boi_token, image) for turn in turns(prompts, self.processor)]
        encode = lambda texts: tokenizer(list(texts), add_special_tokens=False)["input_ids"]  # noqa: E731
        starts = encode(before)
        ends = encode(f"{answer}<end_of_turn>" for answer in answers)
        ids = torch.full((len(starts), ROW), tokenizer.pad_token_id)
        labels = torch.full_like(ids, -100)
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            ids[row, : len(start) + len(end)] = torch.tensor(start + end)
            labels[row, len(start) : len(start) + len(end)] = torch.tensor(end)
        return ids, labels


def lesson_loss(model: Gemma3ForConditionalGeneration, pixels: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The model's own loss, in a quarter of its time: a picture goes through the tower once for both of its rows.

    And one mask serves all rows, where transformers makes one a row from the token types. The image tokens stand at the
    same places everywhere, as the picture comes first in a prompt.
    """
    import torch

    first, after = FIRST_IMAGE_TOKEN, FIRST_IMAGE_TOKEN + architecture.IMAGE_TOKENS
    places = torch.arange(ids.shape[1], device=ids.device)
    of_image = (places >= first) & (places < after)
    mask = (places[:, None] >= places) | (of_image[:, None] & of_image)
    features = model.model.get_image_features(pixels.float() / 127.5 - 1).pooler_output
    words = model.model.language_model.embed_tokens(ids)
    embeddings = torch.cat([words[:, :first], torch.cat([features] * 2).to(words.dtype), words[:, after:]], 1)
    output = model.model.language_model(
        inputs_embeds=embeddings,
        attention_mask={"full_attention": mask[None, None], "sliding_attention": mask[None, None]},
        position_ids=places[None],
        use_cache=False,
    )
    logits = model.lm_head(output.last_hidden_state[:, after:-1])
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels[:, after + 1 :].flatten())


def teach(model: Gemma3ForConditionalGeneration, lessons: Lessons) -> float:
    """One round over all lessons, with a cosine schedule. Gives the mean loss of the last 30 steps.

    Matrices learn by Muon, which needs a third fewer pictures than AdamW here; everything else by AdamW.
    """
    import torch
    from tqdm.auto import tqdm

    stretch, device = lessons.stretch, model.device
    gpu = device.type == "cuda"
    workers = max(1, (os.cpu_count() or 2) - 1) if gpu else 0
    loader = torch.utils.data.DataLoader(lessons, batch_size=None, num_workers=workers, pin_memory=gpu)
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and "embed" not in name else others).append(parameter)
    optimizers = [
        torch.optim.AdamW(others, lr=stretch.rate, betas=(0.9, 0.98), weight_decay=0.01),
        torch.optim.Muon(matrices, lr=stretch.muon_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    ]
    cosine = lambda step: min(1, (step + 1) / 60) * (0.53 + 0.47 * math.cos(math.pi * step / len(lessons)))  # noqa: E731
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, cosine) for optimizer in optimizers]
    loss_of = torch.compile(lesson_loss) if gpu else lesson_loss
    losses: list[torch.Tensor] = []
    model.train()
    for batch in (progress := tqdm(loader, desc=stretch.title, unit="step")):
        with torch.autocast(device.type, torch.bfloat16, enabled=gpu):
            loss = loss_of(model, **{name: part.to(device, non_blocking=True) for name, part in batch.items()})
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for mover in (*optimizers, *schedules):
            mover.step()
        model.zero_grad(set_to_none=True)
        losses = [*losses[-29:], loss.detach()]
        if progress.n % 50 == 0:  # asking for a figure makes a GPU wait
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


def rebuild(out_dir: str | Path, seed: int = 0, rounds: Sequence[Round] = ROUNDS, problems: int = 512) -> dict[str, Any]:
    """Make the embedded checkpoint from nothing, write it to `out_dir`, and give (and save) its recipe and figures.

    On one CPU the same seed gives the same weights; elsewhere the figures agree within noise.
    """
    import torch

    out_dir, started = Path(out_dir), time.time()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    processor = architecture.make_processor(architecture.make_tokenizer(tokenizer_texts(seed)))
    model = architecture.make_model(processor.tokenizer, seed).to(device)
    losses = {stretch.title: teach(model, Lessons(processor, stretch, seed)) for stretch in rounds}
    architecture.round_to_bfloat16(model)
    architecture.save(model, processor, out_dir)
    made = {"made": date.today().isoformat(), "seconds": round(time.time() - started), **_circumstances(model)}
    how = {"seed": seed, "rounds": [dataclasses.asdict(stretch) for stretch in rounds], "last losses": losses}
    return write_recipe(out_dir, model, processor, made | how, problems, seed)


def write_recipe(
    out_dir: Path, model: Gemma3ForConditionalGeneration, processor: Gemma3Processor, how: dict, problems: int, seed: int
) -> dict[str, Any]:
    """Measure the weights of `out_dir` and write recipe.json beside them: how they were made and what they reach."""
    digest = hashlib.sha256((out_dir / "model.safetensors").read_bytes()).hexdigest()
    recipe = how | {"sha256": digest, "figures": figures(model, processor, problems, seed)}
    (out_dir / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")
    return recipe


def _circumstances(model: Gemma3ForConditionalGeneration) -> dict[str, Any]:
    import torch
    import transformers

    gpu = model.device.type == "cuda"
    return {
        "machine": torch.cuda.get_device_name(model.device) if gpu else f"CPU, {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: parse, rebuild, print the recipe."""
    parser = argparse.ArgumentParser(prog="python -m nbhelpers.embedded.recipe", description="Rebuild the embedded model.")
    parser.add_argument("--out", required=True, type=Path, help="folder that receives the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print(json.dumps(rebuild(options.out, options.seed), indent=1))


if __name__ == "__main__":
    main()
