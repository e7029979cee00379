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
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbhelpers.embedded import model as architecture
from nbhelpers.embedded.lessons import Lessons, Round, lesson_loss, tokenizer_texts
from nbhelpers.embedded.measuring import figures

if TYPE_CHECKING:
    import torch
    from transformers import Gemma3ForConditionalGeneration, Gemma3Processor

ROUNDS = (
    Round("seeing and working", 7900, 64, 2e-3, 4.4e-3, with_habits=False),
    Round("habits", 1600, 64, 7e-4, 1.5e-3, with_habits=True),
)


def teach(model: Gemma3ForConditionalGeneration, lessons: Lessons) -> float:
    """One round over all lessons, with a cosine schedule. Gives the mean loss of the last 30 steps.

    Matrices learn by Muon, which needs a third fewer pictures than AdamW here; everything else by AdamW.
    """
    import torch
    from tqdm.auto import tqdm

    stretch, device = lessons.stretch, model.device
    gpu = device.type == "cuda"
    workers = max(1, (os.cpu_count() or 2) * 3 // 4) if gpu else 0  # drawing keeps pace with the GPU
    loader = torch.utils.data.DataLoader(lessons, batch_size=None, num_workers=workers, pin_memory=gpu)
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and "embed" not in name else others).append(parameter)
    optimizers = [
        torch.optim.AdamW(others, lr=stretch.rate, betas=(0.9, 0.98), weight_decay=0.01),
        torch.optim.Muon(matrices, lr=stretch.muon_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    ]

    def cosine(step: int) -> float:
        return min(1, (step + 1) / 60) * (0.53 + 0.47 * math.cos(math.pi * step / len(lessons)))

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


def rebuild(
    out_dir: str | Path, seed: int = 0, rounds: Sequence[Round] = ROUNDS, problems: int = 512
) -> dict[str, Any]:
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
    out_dir: Path,
    model: Gemma3ForConditionalGeneration,
    processor: Gemma3Processor,
    how: dict,
    problems: int,
    seed: int,
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
    parser = argparse.ArgumentParser(
        prog="python -m nbhelpers.embedded.recipe", description="Rebuild the embedded model."
    )
    parser.add_argument("--out", required=True, type=Path, help="folder that receives the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print(json.dumps(rebuild(options.out, options.seed), indent=1))


if __name__ == "__main__":
    main()
