"""Repeating an evaluation from its own record, and evaluating a checkpoint or a model as it is.

On one CPU the bytes are the same. With vLLM (one H100, 2026-11-24, embedded model, 512 problems before and after, 128
sampled four times, 128 plain) a repetition in a new process gave the same bytes too. What changes texts is what is
computed side by side: of 512 greedy answers, batches of 64 and 24 instead of 256 changed 9 and 10 texts and one verdict
each, the other order one of both; with `VLLM_BATCH_INVARIANT=1` (batches of 64 and 7) none. Batches and that switch are
part of the record.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbhelpers.evaluation.evaluating import evaluate
from nbhelpers.evaluation.protocol import EvaluationError, differences
from nbhelpers.evaluation.telling import headline
from nbhelpers.params import RunParams, counted, did_you_mean
from nbhelpers.policy import Policy, load_final_model, load_policy
from nbhelpers.problems import load_problems
from nbhelpers.runs import RunDirectory
from nbhelpers.training import refuse_another_base, refuse_other_problems

_REPEAT = "repeat"
Progress = Callable[[str, int, int], None] | None


@dataclass(frozen=True)
class Evaluated:
    """An evaluation that was made: its result, where it lies, and, where it repeats another, in what it differs."""

    result: dict[str, Any]
    run: RunDirectory
    differences: list[str]

    def __str__(self) -> str:
        return "\n".join([headline(self.result), *self.differences, f"Written to {self.run.path}"])


def evaluate_run(folder: str | Path, *, checkpoint: str | None = None, progress: Progress = None) -> Evaluated:
    """Evaluate a run: for the first time, or going on where it was killed, in place; a finished evaluation is repeated
    from its record in `evaluations/repeat/`; a checkpoint (`12`, `checkpoint-12`) is evaluated in `evaluations/`.

    Raises:
        FileNotFoundError: there is no run.
        EvaluationError: there is no such checkpoint.
    """
    run = RunDirectory(folder)
    params = run.recorded_params()
    record = (run.read_json(run.evaluation_path) or {}).get("conditions")
    if checkpoint is not None:
        weights = _checkpoint(run, checkpoint)
        place = _beside(run, weights.name)
    else:
        weights, place = run.final_model_dir, _beside(run, _REPEAT) if record else run
    problems = load_problems(params.dataset)
    refuse_other_problems(params, run, problems.fingerprint)
    policy = load_final_model(weights, params.model)
    refuse_another_base(run, policy)
    result = evaluate(policy, problems, params, place, progress=progress)
    return Evaluated(result, place, _compared(run, place, record, result["conditions"], same_policy=checkpoint is None))


def evaluate_model(name: str, params: RunParams, *, progress: Progress = None) -> Evaluated:
    """Evaluate a model as it is under the evaluation of `params`, in `params.output_dir`.

    Args:
        name: a hub id or a folder with a model, or with what training saved (then before and after).
    """
    run, folder = RunDirectory(params.output_dir), Path(name)
    if (folder / "adapter_config.json").is_file():
        policy: Policy = load_final_model(folder, params.model)
    else:
        params = params.model_copy(update={"model": params.model.model_copy(update={"name": name})})
        policy = load_policy(params.model)
    record = (run.read_json(run.evaluation_path) or {}).get("conditions")
    place = _beside(run, _REPEAT) if record else run
    result = evaluate(policy, load_problems(params.dataset), params, place, progress=progress)
    place.write_text(place.params_path, params.to_yaml())
    return Evaluated(result, place, _compared(run, place, record, result["conditions"], same_policy=True))


def _checkpoint(run: RunDirectory, name: str) -> Path:
    wanted = f"checkpoint-{name}" if name.isdigit() else name
    found = sorted(path.parent.name for path in run.checkpoints_dir.glob("*/adapter_config.json"))
    if wanted not in found:
        there = f"there are {', '.join(found)}" if found else "there is none"
        raise EvaluationError(f"{run.path} has no checkpoint {name!r}; {there}{did_you_mean(wanted, found) or '.'}")
    return run.checkpoints_dir / wanted


def _beside(run: RunDirectory, name: str) -> RunDirectory:
    """A directory for another evaluation of a run, which shares its pictures."""
    place = RunDirectory(run.path / "evaluations" / name)
    place.path.mkdir(parents=True, exist_ok=True)
    if not place.images_dir.exists():
        with contextlib.suppress(OSError):  # where there are no links, the pictures are written again
            place.images_dir.symlink_to(os.path.relpath(run.images_dir, place.path), target_is_directory=True)
    return place


def _compared(run: RunDirectory, place: RunDirectory, then: dict | None, now: dict, *, same_policy: bool) -> list[str]:
    """What differs between an evaluation and its repetition: in their records, and in their answers."""
    if not then:
        return []
    sentences = differences(then, now)
    if not same_policy:
        return [sentence for sentence in sentences if not sentence.startswith("model.adapter")]
    said = [f"Different: {s}" for s in sentences] or ["Everything that its record names is as it was."]
    files = [path for path in (run.predictions_path, run.pass_path, run.plain_path) if path.is_file()]
    same = [path.name for path in files if path.read_bytes() == (place.path / path.name).read_bytes()]
    if same:
        said.append(f"{', '.join(same)} {'is' if len(same) == 1 else 'are'} the same, byte for byte.")
    others = [path for path in files if path.name not in same]
    return said + [f"{path.name}: {_changed(run.read_jsonl(path), place.read_jsonl(place.path / path.name))}"
                   for path in others]  # fmt: skip


def _changed(first: Sequence[dict], second: Sequence[dict]) -> str:
    pairs = _pairs(first, second)
    texts = sum(one["completion"] != other["completion"] for one, other in pairs)
    verdicts = sum(one["correct"] != other["correct"] for one, other in pairs)
    right = [sum(row["correct"] for row in rows) for rows in zip(*pairs, strict=True)] if pairs else [0, 0]
    return (
        f"of {counted(len(pairs), 'answer')} {texts} have another text and {verdicts} another verdict; "
        f"{right[0]} were right then, {right[1]} are now."
    )


def _pairs(first: Sequence[dict], second: Sequence[dict]) -> list[tuple[dict, dict]]:
    """The rows that stand at the same place among the samples of a problem in the same phase."""
    then, now = _by_place(first), _by_place(second)
    return [(row, now[key]) for key, row in then.items() if key in now]


def _by_place(rows: Sequence[dict]) -> dict[tuple, dict]:
    seen: Counter[tuple] = Counter()
    table = {}
    for row in rows:
        asked = row["phase"], row["pid"]
        table[*asked, seen[asked]] = row
        seen[asked] += 1
    return table
