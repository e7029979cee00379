"""First contact with a model: a few problems, answered before a night is spent on a set-up that is broken."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from typing import Any

from nbhelpers.evaluation.statistics import interval_of_rate, mean, picture_clusters, problem_accuracy, summarise
from nbhelpers.grading import GRADING_COLUMNS, grade_anywhere
from nbhelpers.params import RunParams, counted, percent
from nbhelpers.policy import first_that_fit, load_policy, predict, start_engine, verify
from nbhelpers.problems import conversation, load_problems
from nbhelpers.runs import RunDirectory, duration

PROBLEMS, PARITY_PROBLEMS = 32, 8
# Gemma-3 4B on all of MathVista testmini: two harnesses of others (williamium3000/trl-projects, 2026-06), and Google's
# report (arXiv:2503.19786). They differ by prompt and extraction.
PUBLISHED = "published for Gemma-3 4B on MathVista testmini: 31.2 and 46.3 % by others, 50.0 % by Google"


@dataclass(frozen=True)
class Trial:
    """What a model did with a few problems; shares from 0 to 1.

    `anywhere` counts right answers wherever a completion hands them in, `parity` says how far vLLM and the trainer
    agree, or that there is no vLLM to compare.
    """

    model: str
    problems: int
    seconds: float
    accuracy: float
    interval: list[float]
    anywhere: float
    format_rate: float
    cut_off: float
    parity: str
    published: str = ""

    @property
    def doubts(self) -> list[str]:
        """What should be looked at before anything is trained."""
        said = []
        if self.format_rate < 0.1:
            said.append("Hardly a completion keeps the format: look at the prompt in notebook 01 and at a few answers.")
        if self.cut_off > 0.25:
            said.append(f"{percent(self.cut_off, 0)} are cut off: raise training.max_completion_length.")
        if self.anywhere == 0:
            said.append("No answer is right, wherever it stands: the weights, the processor or the prompt are wrong.")
        return said

    def __str__(self) -> str:
        low, high = (percent(end, 0) for end in self.interval)
        lines = [
            f"{self.model}: {counted(self.problems, 'problem')} answered in {duration(self.seconds)}, greedily",
            f"  parity        {self.parity}",
            f"  format kept   {percent(self.format_rate, 0)}",
            f"  cut off       {percent(self.cut_off, 0)}",
            f"  right         {percent(self.accuracy, 0)} (95 % interval {low} to {high})"
            + (f"; {self.published}" if self.published else ""),
            f"  right wherever the answer stands: {percent(self.anywhere, 0)}",
        ]
        return "\n".join([*lines, *(f"  Look: {doubt}" for doubt in self.doubts)])


def try_model(params: RunParams) -> Trial:
    """Load the model as training would, compare vLLM with the trainer where both are used, and answer a few problems of
    the evaluation side. Nothing is left on the disk.

    Raises:
        PolicyError, GenerationError: the model cannot be loaded, or vLLM's log-probs are not the trainer's.
    """
    problems = load_problems(params.dataset)
    policy = load_policy(params.model, params.lora, seed=params.training.seed)
    few = first_that_fit(policy, problems.evaluation, params, PROBLEMS)
    parity = _parity(policy, few, params)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        rows = predict(policy, few, params, RunDirectory(folder), phase="before")
    rates, found = summarise(rows), problem_accuracy(rows)
    known = "mathvista" in problems.source.lower() and "gemma-3-4b" in params.model.name.lower()
    return Trial(
        model=params.model.name,
        problems=rates["n"],
        seconds=time.perf_counter() - started,
        accuracy=rates["accuracy"],
        interval=interval_of_rate(found, picture_clusters(rows)),
        anywhere=mean(row["correct"] or _right_anywhere(row, params) for row in rows),
        format_rate=rates["format_rate"],
        cut_off=mean(row["truncated"] for row in rows),
        parity=parity,
        published=PUBLISHED if known else "",
    )


def _parity(policy: Any, few: Any, params: RunParams) -> str:
    if not params.model.fast_inference:
        return "transformers samples and trains, so there is nothing to compare"
    engine = start_engine(policy, params.model, params.training)
    rows = few[:PARITY_PROBLEMS]
    prompts, length = [conversation(row, params.reward) for row in rows], params.training.max_completion_length
    report, warning = verify(policy, engine, prompts, [row["image"] for row in rows], length=length)
    return str(warning or report)


def _right_anywhere(row: dict, params: RunParams) -> bool:
    columns = {key: row[key] for key in GRADING_COLUMNS}
    return grade_anywhere(row["completion"], row["answer"], delimiters=params.reward.delimiters, **columns).correct
