"""Answering: passes over the evaluation problems in fixed batches. A batch is written down when it is answered, so that
an evaluation that was killed goes on where it was, and on one CPU gives the bytes that it would have given.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nbhelpers.grading import GRADING_COLUMNS, grade_anywhere
from nbhelpers.params import RunParams, counted
from nbhelpers.policy import Policy, predict
from nbhelpers.problems import conversation
from nbhelpers.runs import RunDirectory
from nbhelpers.training import launched, place_among_processes

BATCH, BATCH_OF_VLLM = 64, 256  # problems: what is written down at once, and what one call answers
_TRIED = 32  # prompts that tell the pace


@dataclass(frozen=True)
class Pass:
    """One asking of the first `count` problems; its rows have the phase `phase` in the run's file `file`."""

    name: str
    file: str
    phase: str
    count: int
    temperature: float = 0.0
    samples: int = 1
    plain: bool = False

    @property
    def adapter_off(self) -> bool:
        """Whether the policy before training is asked."""
        return self.phase in ("before", "plain")

    def as_record(self) -> dict[str, Any]:
        """For the record of an evaluation."""
        return asdict(self)


def plan_passes(params: RunParams, problems: int, *, adapter: bool, run: RunDirectory) -> list[Pass]:
    """What is asked of `problems` problems, in order; without an adapter the base model alone is."""
    settings = params.evaluation
    sampled = {"temperature": float(params.training.temperature), "samples": settings.pass_k or 1}
    passes = []
    for phase in ("before", "after") if settings.baseline and adapter else ("after",):
        greedy = {"temperature": float(settings.temperature), "samples": settings.samples_per_problem}
        passes.append(Pass(phase, run.predictions_path.name, phase, problems, **greedy))
        if settings.pass_k:
            few = min(settings.pass_problems, problems)
            passes.append(Pass(f"{phase}, sampled", run.pass_path.name, phase, few, **sampled))
    wanted = problems if settings.plain_problems is None else min(settings.plain_problems, problems)
    if wanted and (settings.baseline or not adapter):
        passes.insert(len(passes) // 2 if adapter else len(passes), Pass(
            "plain prompt", run.plain_path.name, "plain", wanted, **greedy, plain=True
        ))  # fmt: skip
    return passes


def batch_of(params: RunParams) -> int:
    """Problems of one batch. Numbers depend on what is computed together, so it is part of an evaluation's record."""
    return BATCH_OF_VLLM if params.model.fast_inference else BATCH


def answer(
    policy: Policy,
    problems: Any,
    params: RunParams,
    run: RunDirectory,
    one: Pass,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[dict]:
    """The graded rows of a pass: those that its file holds already in whole batches, and the others, appended.

    Processes of a launcher answer a batch each in turn, which are the batches of one process, and all get all rows.
    """
    path, batch, (rank, ranks) = run.path / one.file, batch_of(params), place_among_processes()
    rows = _of_all(_kept(run, path, one, batch) if rank == 0 else [])
    for start in range(len(rows) // one.samples, one.count, batch * ranks):
        own = start + rank * batch
        found = _answer_batch(policy, problems, params, run, one, range(own, min(own + batch, one.count)))
        found = _of_all(found)
        if rank == 0:
            run.append_jsonl(path, *found)
        rows += found
        if progress:
            progress(one.name, len(rows) // one.samples, one.count)
    return rows


def _answer_batch(
    policy: Policy, problems: Any, params: RunParams, run: RunDirectory, one: Pass, places: range
) -> list[dict]:
    if not places:
        return []
    with policy.without_adapter() if one.adapter_off else contextlib.nullcontext():
        asked = {"phase": one.phase, "temperature": one.temperature, "samples_per_problem": one.samples}
        asked |= {"seed": params.training.seed + places.start, "plain": one.plain}
        found = predict(policy, problems.select(places), params, run, **asked)
    return [row | _anywhere(row, params) for row in found]


def _of_all(rows: list[dict]) -> list[dict]:
    """The rows of every process, in the order of their ranks."""
    from accelerate.utils import gather_object

    return gather_object(rows) if launched() else rows


def done(run: RunDirectory, one: Pass, batch: int) -> int:
    """Problems of a pass that are answered in whole batches."""
    return len(_whole(run.read_jsonl(run.path / one.file), one, batch)) // one.samples


def _whole(rows: Sequence[dict], one: Pass, batch: int) -> list[dict]:
    own = [row for row in rows if row["phase"] == one.phase]
    problems = min(len(own) // one.samples, one.count)
    whole = problems if problems == one.count else problems // batch * batch
    return own[: whole * one.samples]


def _kept(run: RunDirectory, path: Path, one: Pass, batch: int) -> list[dict]:
    """The rows of whole batches; of a batch that was written in part, nothing stays."""
    rows = run.read_jsonl(path)
    whole = _whole(rows, one, batch)
    if len(whole) < sum(row["phase"] == one.phase for row in rows):
        run.write_jsonl(path, [row for row in rows if row["phase"] != one.phase] + whole)
    return whole


def _anywhere(row: dict, params: RunParams) -> dict[str, Any]:
    columns = {key: row[key] for key in GRADING_COLUMNS}
    verdict = grade_anywhere(row["completion"], row["answer"], delimiters=params.reward.delimiters, **columns)
    return {"correct_anywhere": verdict.correct, "parsed_anywhere": verdict.parsed, "reason_anywhere": verdict.reason}


def cost_sentence(policy: Policy, problems: Any, params: RunParams, run: RunDirectory, passes: Sequence[Pass]) -> str:
    """How many completions are still to be sampled, and about how many minutes that takes at most: the pace of a few
    prompts, were every completion as long as it may be.
    """
    left = {one: one.count - done(run, one, batch_of(params)) for one in passes}
    completions = sum(count * one.samples for one, count in left.items())
    if not completions:
        return "Every answer is there already."
    longest = params.training.max_completion_length
    tried = min(_TRIED, len(problems))
    read, write = _pace(policy, problems.select(range(tried)), params, min(8, max(longest - 1, 1)))
    together = max(tried, 64) if policy.sampler is None else batch_of(params)
    seconds = sum(math.ceil(count * one.samples / together) * longest * write for one, count in left.items() if count)
    seconds += sum(left.values()) * read / tried
    time_taken = counted(round(seconds / 60), "minute") if seconds > 90 else counted(round(max(seconds, 1)), "second")
    return (
        f"{counted(completions, 'completion')} of at most {counted(longest, 'token')}: about {time_taken} if all are "
        "that long, less where they end earlier."
    )


def _pace(policy: Policy, problems: Any, params: RunParams, tokens: int) -> tuple[float, float]:
    """Seconds to read these prompts, and seconds per further token of all of them."""
    asked = [conversation(row, params.reward) for row in problems.remove_columns("image")], problems["image"][:]
    times = []
    for length in (1, 1, 1 + tokens):  # the first call of all prepares what later ones find
        started = time.perf_counter()
        policy.sample(*asked, max_new_tokens=length)
        times.append(time.perf_counter() - started)
    return times[1], max(times[2] - times[1], 0.0) / tokens
