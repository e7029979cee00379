"""A made-up run directory in the project's own formats, for tests of what reads one: no model, no training, seeded.

python tests/synthetic_run.py FOLDER [--steps 60] [--prompts 32]
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

from PIL import Image, ImageDraw

KINDS = ("count", "sum", "bars", "area")

# Each of these must reach the eye as the characters that it is made of.
HOSTILE = {
    "script": "<script>window.PWNED = 1; alert(1)</script>",
    "handler": '<img src=x onerror="window.PWNED = 1">',
    "svg": "<svg/onload=window.PWNED=1>",
    "closers": "</textarea></script></style></title></details>--><script>window.PWNED=1</script>",
    "template": "{{ 7 * 7 }} ${window.PWNED = 1} {% raw %}",
    "bidi": "the answer is \u202e54\u202c, or \u2067right to left\u2069",
    "math": "it costs $5 and $6, x^2_{3} \\frac{1}{2}",
    "chinese": "\u8bd5\u9898\uff1a\u4e00\u4e2a\u6b63\u65b9\u5f62\u7684\u9762\u79ef\u662f\u591a\u5c11\uff1f",
    "controls": "a\x00b\x07c\x1b[31mred",
    "surrogate": "half a pair: \ud83d.",
    "long": "All work and no play. " * 4700,
}


def draw(kind: str, rng: random.Random) -> tuple[Image.Image, str, str]:
    """A picture, its question, its answer."""
    image = Image.new("RGB", (256, 256), "white")
    pen = ImageDraw.Draw(image)
    if kind in ("count", "sum"):
        red, blue = rng.randint(1, 6), rng.randint(1, 6)
        cells = rng.sample(range(16), red + blue)
        for place, cell in enumerate(cells):
            x, y = 32 + 64 * (cell % 4), 32 + 64 * (cell // 4)
            pen.ellipse([x - 20, y - 20, x + 20, y + 20], fill="#c0392b" if place < red else "#2471a3")
        if kind == "count":
            return image, "How many red dots are there?", str(red)
        return image, "How many dots are there in total?", str(red + blue)
    if kind == "bars":
        heights = [rng.randint(1, 7) for _ in range(4)]
        for y in range(0, 256, 32):
            pen.line([0, 255 - y, 255, 255 - y], fill="#dddddd")
        for place, height in enumerate(heights):
            pen.rectangle([place * 64 + 12, 255 - height * 32, place * 64 + 52, 255], fill="#229954")
        return image, "How tall is the tallest bar?", str(max(heights))
    width, height = rng.randint(1, 7), rng.randint(1, 7)
    pen.rectangle([16, 16, 16 + width * 32, 16 + height * 32], fill="#f5cba7", outline="#935116", width=3)
    for line in range(16, 256, 32):
        pen.line([line, 16, line, 240], fill="#cccccc")
        pen.line([16, line, 240, line], fill="#cccccc")
    return image, "What is the area of the rectangle in squares?", str(width * height)


def make_problems(count: int, seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    problems = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        image, question, answer = draw(kind, rng)
        choices = None
        if kind == "sum" and number % 8 == 1:
            choices = [str(int(answer) + shift) for shift in (-1, 0, 1, 2)]
        problems.append(
            {
                "pid": f"{kind}-{number:04d}",
                "question": question,
                "image": image,
                "choices": choices,
                "unit": "squares" if kind == "area" else None,
                "precision": None,
                "answer": answer,
                "question_type": "multi_choice" if choices else "free_form",
                "answer_type": "text" if choices else "integer",
                "metadata": {"category": kind},
            }
        )
    return problems


def _completion(problem: dict, skill: float, rng: random.Random) -> dict:
    right = (
        rng.random() < skill * {"count": 1.15, "sum": 1.0, "bars": 0.9, "area": 0.7}[problem["metadata"]["category"]]
    )
    formed = rng.random() < 0.6 + 0.4 * skill
    cut = not formed and rng.random() < 0.4
    answer = problem["answer"] if right else str(max(0, int(problem["answer"]) + rng.choice([-2, -1, 1, 2, 3])))
    counted = "of them" if rng.random() < 0.5 else "in all"
    thought = f"I look at the picture and see {answer} {counted}. The answer is {answer}."
    if not formed:
        text = f"<REASONING>{thought}" if cut else f"{thought}"
        right = False
    else:
        text = f"<REASONING>{thought}</REASONING><SOLUTION>{answer}</SOLUTION>"
    return {
        "completion": text,
        "correct": right,
        "parsed": answer if formed else None,
        "reason": (f"{answer} is the answer" if right else f"{answer} is not {problem['answer']}")
        if formed
        else "no solution block",
        "format_ok": formed,
        "truncated": cut,
        "length": len(text.split()) * 2 + rng.randint(0, 5),
    }


def _fields(problem: dict) -> dict:
    names = ("pid", "question", "choices", "unit", "precision", "answer", "question_type", "answer_type")
    return {**{name: problem[name] for name in names}, "kind": problem["metadata"]["category"]}


def make_run(
    folder: Path,
    *,
    steps: int = 60,
    prompts: int = 32,
    generations: int = 4,
    problems: int = 256,
    evaluation: int = 128,
    gain: float = 0.45,
    seed: int = 0,
    hostile: bool = False,
) -> Path:
    """Writes a whole run directory; `hostile` replaces some questions, completions and reasons by the texts of
    `HOSTILE`.
    """
    from nbhelpers.runs import RunDirectory, SampleWriter

    run = RunDirectory(folder)
    rng = random.Random(seed)
    train = make_problems(problems, seed)
    if hostile:
        for problem, text in zip(train, HOSTILE.values(), strict=False):
            problem["question"] = text if len(text) < 1000 else text[:1000]
    writer, probes = SampleWriter(run), make_problems(4, seed=20_000)
    for step in range(1, steps + 1):
        skill = 0.3 + gain * (1 - math.exp(-3 * step / max(steps, 1)))
        rows, images = [], []
        for place in range(prompts):
            problem = train[((step - 1) * prompts + place) % problems]
            group = []
            for index in range(generations):
                made = _completion(problem, skill, rng)
                if hostile and step == 1 and place < len(HOSTILE):
                    text = list(HOSTILE.values())[place]
                    made["completion"] = [text, f"<REASONING>{text}</REASONING><SOLUTION>{text[:200]}</SOLUTION>"][
                        index % 2
                    ]
                    made["reason"] = f"cannot read {text[:300]}"
                formatting, correctness = 2.0 * made.pop("format_ok"), 2.0 * made["correct"]
                group.append(
                    {
                        "step": step,
                        "group": f"{step}-{place}",
                        "index": index,
                        **_fields(problem),
                        "prompt": f"<start_of_turn>user\n<image>{problem['question']}<end_of_turn>\n",
                        **made,
                        "rewards": {"formatting": formatting, "correctness": correctness},
                        "reward": formatting + correctness,
                    }
                )
            mean = sum(row["reward"] for row in group) / generations
            for row in group:
                row["advantage"] = row["reward"] - mean
            rows += group
            images += [problem["image"]] * generations
        writer.write(rows, images)
        run.append_jsonl(run.metrics_path, _metrics(rows, step, generations, rng))
        if step in (1, steps // 2, steps):
            asked = random.Random(seed + step)
            moment = 0 if step == 1 else step
            run.append_jsonl(run.samples_path, *[_probe(run, problem, moment, skill, asked) for problem in probes])
    held_out = make_problems(evaluation, seed=10_000)
    predictions = []
    for phase, skill in (("before", 0.3), ("after", 0.3 + gain)):
        rng = random.Random(seed * 7 + (1 if phase == "before" else 2))
        for problem in held_out:
            predictions.append(
                {
                    "phase": phase,
                    **_fields(problem),
                    "image": run.image_file(problem["image"]),
                    "prompt": problem["question"],
                    **_completion(problem, skill, rng),
                }
            )
    run.write_jsonl(run.predictions_path, predictions)
    run.write_json(run.evaluation_path, _evaluation(predictions))
    run.write_json(run.manifest_path, _manifest(run.path, seed, hostile))
    return run.path


def _probe(run, problem: dict, step: int, skill: float, rng: random.Random) -> dict:
    made = _completion(problem, skill, rng)
    rewards = {"formatting": 2.0 * made.pop("format_ok"), "correctness": 2.0 * made["correct"]}
    row = {**_fields(problem), "pid": f"probe-{problem['pid']}", "image": run.image_file(problem["image"]), **made}
    told = {"role": "probe", "step": step, "group": f"probe-{step}-{problem['pid']}", "index": 0, "advantage": None}
    return {**row, **told, "rewards": rewards, "reward": sum(rewards.values())}


def _metrics(rows: list[dict], step: int, generations: int, rng: random.Random) -> dict:
    def mean(values):
        values = list(values)
        return sum(values) / len(values)

    groups = [rows[start : start + generations] for start in range(0, len(rows), generations)]
    row = {
        "step": step,
        "time": 1_763_900_000.0 + 1.6 * step,
        "epoch": step / 8,
        "loss": rng.gauss(0, 0.004),
        "grad_norm": 0.4 + rng.random() * 0.2,
        "learning_rate": 3e-4,
        "reward": mean(r["reward"] for r in rows),
        "reward_std": mean(abs(r["advantage"]) for r in rows),
    }
    for name in rows[0]["rewards"]:
        values = [r["rewards"][name] for r in rows]
        row[f"rewards/{name}/mean"] = mean(values)
        row[f"rewards/{name}/std"] = math.sqrt(mean((value - mean(values)) ** 2 for value in values))
    row["frac_reward_zero_std"] = mean(len({r["reward"] for r in group}) == 1 for group in groups)
    row["completions/mean_length"] = mean(r["length"] for r in rows)
    row["completions/clipped_ratio"] = mean(r["truncated"] for r in rows)
    row["entropy"] = 0.5 * math.exp(-step / 40) + rng.random() * 0.03
    row["num_tokens"] = 9000.0 * step
    row["step_time"] = 1.5 + rng.random() * 0.2
    return row


def _evaluation(predictions: list[dict]) -> dict:
    def figures(rows):
        count = len(rows)
        return {
            "accuracy": sum(row["correct"] for row in rows) / count,
            "format_rate": sum(row["format_ok"] for row in rows) / count,
            "unparsed_rate": sum(row["parsed"] is None for row in rows) / count,
            "n": count,
        }

    phases = {phase: [row for row in predictions if row["phase"] == phase] for phase in ("before", "after")}
    result = {phase: figures(rows) for phase, rows in phases.items()}
    gain = result["after"]["accuracy"] - result["before"]["accuracy"]
    result["difference"] = {"accuracy": gain, "ci95": [gain - 0.1, gain + 0.1], "n_paired": result["after"]["n"]}
    result["by_group"] = {}
    for kind in KINDS:
        of = {phase: [row["correct"] for row in rows if row["kind"] == kind] for phase, rows in phases.items()}
        if of["after"]:
            shares = {phase: sum(values) / len(values) for phase, values in of.items()}
            result["by_group"][kind] = {**shares, "n": len(of["after"])}
    return {**result, "protocol": "strict", "decoding": {"temperature": 0.0, "max_new_tokens": 48}}


def _manifest(folder: Path, seed: int, hostile: bool) -> dict:
    return {
        "created": "2026-11-23T12:00:00+00:00",
        "preset": folder.name,
        "model": HOSTILE["script"] if hostile else "embedded",
        "backend": "transformers",
        "versions": {"python": "3.11.2", "torch": "2.13.0+cpu", "trl": "1.14.2", "transformers": "5.17.0"},
        "seeds": {"training": seed, "dataset": 3407},
        "parameters": {
            "training": {"learning_rate": 3e-4, "max_steps": 60, "num_generations": 4, "loss_type": "dr_grpo"}
        },
        "dataset": {
            "path": "embedded",
            "fingerprint": "a1b2c3",
            "train": 256,
            "evaluation": 128,
            "dropped": {"no answer": 2},
        },
        "hardware": {"cpu": "a processor", "cores": 2, "memory_gib": 23.4, "gpus": []},
        "warnings": [HOSTILE["handler"]] if hostile else ["The batch was rounded up from 126 to 128 completions."],
        "notices": ["MathVista's licence forbids training on it."],
        "timings": {"training_seconds": 101.5},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gain", type=float, default=0.45)
    parser.add_argument("--hostile", action="store_true")
    print(make_run(**vars(parser.parse_args())))
