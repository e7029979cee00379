"""Where a run stands: what training will do in a run directory, and whether its `final_model/` is what it says."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbhelpers.params import (
    BatchPlan,
    Layer,
    RunParams,
    differing_settings,
    extends,
    not_only_data,
    settings_digest,
    settings_table,
)
from nbhelpers.policy import Policy, adapter_norm
from nbhelpers.runs import RunDirectory, flaw, read_seal, who_writes
from nbhelpers.training.configuration import TrainingError
from nbhelpers.training.configuration import check as check_settings


class TrainingRefused(TrainingError):
    """A run directory is not trained in, because what is there was made with something else."""


@dataclass(frozen=True)
class Standing:
    """What training will do in a run directory.

    Attributes:
        step: optimiser steps that are kept; 0 begins anew.
        checkpoint: where training goes on; None where it begins anew or nothing is left to do.
        trained: the folder whose weights are the end of training, where no step is left: `final_model/`, or the last
            checkpoint of a run that was killed before it wrote that.
        damaged: later checkpoints, which cannot be used.
        notices: sentences to say before it starts.
    """

    step: int = 0
    checkpoint: Path | None = None
    trained: Path | None = None
    damaged: tuple[Path, ...] = ()
    notices: tuple[str, ...] = ()


def check(params: RunParams) -> BatchPlan:
    """The arithmetic of a step, and what training would refuse in this run directory, before a model is loaded.

    Raises:
        ParamsError, TrainingError: see `configuration.check` and `standing`.
    """
    standing(params, RunDirectory(params.output_dir))
    return check_settings(params)


def standing(params: RunParams, run: RunDirectory) -> Standing:
    """Look at a run directory before training in it; nothing is changed and no model is loaded.

    Raises:
        TrainingRefused: `training.resume` is set, and the run there was made with other settings, or cannot go on.
    """
    mode = params.training.resume
    if not mode:
        return Standing()
    final = None if flaw(run.final_model_dir) else read_seal(run.final_model_dir)
    checkpoints = _checkpoints(run)
    if not checkpoints and final is None:
        return Standing(notices=(f"There is no checkpoint in {run.path}: training begins at step 1.",))
    _refuse_other_settings(params, run)
    if final and final["step"] >= _end(params, final):
        said = f"Nothing is left to train: {run.final_model_dir} is of step {final['step']}, the last."
        return Standing(final["step"], trained=run.final_model_dir, notices=(said,))
    flaws = {folder: flaw(folder) for folder in checkpoints}
    whole = next((folder for folder in checkpoints if not flaws[folder]), None)
    damaged = tuple(folder for folder in checkpoints[: checkpoints.index(whole) if whole else None])
    said = [f"{folder.name} cannot be used: {flaws[folder]}." for folder in damaged]
    if whole is None:
        if final or any(map(read_seal, damaged)):  # what was whole once is not given up without being asked
            raise TrainingRefused(
                f"{run.path} has no checkpoint to go on from. {' '.join(said)} training.resume=false begins anew and "
                "moves what is there to previous/."
            )
        return Standing(notices=(*said, f"No checkpoint in {run.path} is whole: training begins at step 1."))
    sealed = read_seal(whole)
    if sealed["step"] >= _end(params, sealed):
        said.append(f"No step is left to train: the policy is that of {whole.name}, the last.")
        return Standing(sealed["step"], None, whole, damaged, tuple(said))
    said.append(f"Training goes on from {whole.name}, after step {sealed['step']}.")
    return Standing(sealed["step"], whole, None, damaged, tuple(said))


def last_whole_checkpoint(run: RunDirectory) -> Path | None:
    """The newest checkpoint of a run that is as it was written."""
    return next((folder for folder in _checkpoints(run) if not flaw(folder)), None)


def run_facts(params: RunParams, step: int, max_steps: int, seconds: float) -> dict[str, Any]:
    """What the seal of a checkpoint or of `final_model/` says of it."""
    settings, length = settings_digest(params.as_dict()), _length(params)
    return {"step": step, "max_steps": max_steps, "length": length, "settings": settings, "seconds": seconds}


def refuse_other_data(run: RunDirectory, where: Standing, fingerprint: str, plan: BatchPlan) -> None:
    """What the settings alone do not show: a run goes on with the problems and the completions per step that it had.

    Raises:
        TrainingRefused: the data behind the same settings are other ones, or other processes make other steps.
    """
    recorded = run.read_manifest() if where.step else {}
    was = recorded.get("dataset", {}).get("fingerprint", fingerprint)
    if was != fingerprint:
        raise TrainingRefused(
            f"The problems are no longer those that {run.path} was begun with (fingerprint {was} then, {fingerprint} "
            "now): data never change inside a run. Bring the old data back, or begin another run with --output-dir."
        )
    then = recorded.get("batch", {}).get("completions_per_step", plan.completions_per_step)
    if then != plan.completions_per_step:
        raise TrainingRefused(
            f"{run.path} was begun with {then} completions a step, and would go on with {plan.completions_per_step}: "
            "start as many processes as before, or begin another run with --output-dir."
        )


def refuse_a_trained_policy(policy: Policy, run: RunDirectory) -> None:
    """A run that begins at step 1 begins with a fresh adapter, or its record would not say what it began with: the cell
    that trains may be run again in a kernel whose policy has learnt already.

    Raises:
        TrainingRefused: the adapter is not a fresh one.
    """
    if norm := adapter_norm(policy):
        raise TrainingRefused(
            f"This policy has learnt already (norm of its adapter's B matrices {norm:.3f}, 0 when fresh), and training "
            f"would begin at step 1 with it. To train anew, load it again first (the cell with load_policy). To go on "
            f"with what is in {run.path}: training.resume=true, or extend with more steps."
        )


def refuse_another_base(run: RunDirectory, policy: Policy) -> None:
    """An adapter belongs to the weights that it was trained on; without `model.revision` the hub gives its newest.

    Raises:
        TrainingRefused: the base model is of another commit than the run's.
    """
    was, now = run.read_manifest().get("model_revision"), policy.revision
    if was and now and was != now:
        raise TrainingRefused(
            f"{run.path} was trained on its base model at commit {was}, and this one is of commit {now}: its adapter "
            f"belongs to the former. Give model.revision={was}."
        )


def refuse_other_problems(params: RunParams, run: RunDirectory, fingerprint: str) -> None:
    """See that the problems which are to be evaluated are of the cut that the run was trained with.

    Raises:
        TrainingRefused: the data behind the same settings have changed, so that pictures which were trained on may be
            among the evaluated ones.
    """
    was = run.read_manifest().get("dataset", {}).get("fingerprint", fingerprint)
    other = _other_settings(params, run)  # `check_trained` judges those
    if was != fingerprint and not any(key.startswith("dataset.") for key in other):
        raise TrainingRefused(
            f"The problems are no longer those that {run.path} was trained with (fingerprint {was} then, {fingerprint} "
            "now), so pictures that it was trained on could be among the evaluated ones. Bring the old data back, name "
            "another evaluation set (dataset.eval_path), or train in another --output-dir."
        )


def check_trained(params: RunParams, run: RunDirectory) -> None:
    """See that `final_model/` belongs to the records beside it, and was trained with these settings.

    Raises:
        TrainingError: it does not; the sentence says what to do.
    """
    sealed = read_seal(run.final_model_dir)
    steps = [line["step"] for line in run.read_jsonl(run.metrics_path)]
    if wrong := flaw(run.final_model_dir):
        if sealed or steps:
            raise TrainingError(f"{run.final_model_dir} cannot be used: {wrong}. {how_to_go_on(run)}")
        return  # an adapter of another origin, with no records that could contradict it
    if steps and not 0 <= sealed["step"] - steps[-1] < _steps_of_a_line(run, sealed):
        raise TrainingError(
            f"{run.final_model_dir} is of step {sealed['step']}, but the run has come to step {steps[-1]}: its adapter "
            f"is not evaluated as that step's. {how_to_go_on(run)}"
        )
    other = {key: pair for key, pair in _other_settings(params, run).items() if _is_read(key)}
    if params.dataset.eval_path or params.dataset.eval_split:  # problems of another source than those trained on
        other = {key: pair for key, pair in other.items() if not key.startswith("dataset.eval_")}
    if other:
        raise TrainingError(
            f"{run.path} was trained with other settings:\n{settings_table(other)}\nWith other problems, prompts or "
            "another model its result would not be this run's, and pictures that it was trained on could be among "
            "the evaluated ones. Give back the run's values, or train in another --output-dir."
        )


def _steps_of_a_line(run: RunDirectory, sealed: Mapping[str, Any]) -> float:
    """Steps between two lines of the metrics: 1, or what `training.grpo` asks for, which may be a share of all."""
    every = run.read_manifest().get("grpo_config", {}).get("logging_steps", 1)
    return max(1, every if every >= 1 else every * sealed["max_steps"])


def is_trained(params: RunParams, run: RunDirectory) -> bool:
    """Whether a policy was trained here that can be evaluated; False where nothing was, or `training.resume` goes on.

    Raises:
        TrainingError: training goes on here or was interrupted, or see `check_trained`.
    """
    if (run.final_model_dir / "adapter_config.json").is_file():
        check_trained(params, run)
        return True
    steps = [line["step"] for line in run.read_jsonl(run.metrics_path)]
    if steps and not params.training.resume:
        if writer := who_writes(run.path):
            raise TrainingError(f"Training in {run.path} goes on, after step {steps[-1]} ({writer}): wait for its end.")
        raise TrainingError(f"Training in {run.path} was interrupted after step {steps[-1]}. {how_to_go_on(run)}")
    return False


def what_is_kept(run: RunDirectory) -> str:
    """The steps that are on the disk after training has ended early, and how it goes on; empty where it never began."""
    steps = [line["step"] for line in run.read_jsonl(run.metrics_path)]
    if not steps:
        return ""
    whole = last_whole_checkpoint(run)
    kept = f"{whole.name} is whole" if whole else "there is no checkpoint yet, so it will begin at step 1 again"
    return f"{run.path}: steps up to {steps[-1]} are recorded, and {kept}. {how_to_go_on(run)}"


def how_to_go_on(run: RunDirectory) -> str:
    """The command that goes on with a run, and the same for a notebook."""
    place = run.params_path
    if place.is_relative_to(Path.cwd()):
        place = place.relative_to(Path.cwd())
    recorded = run.read_manifest().get("parameters", {})
    more = "" if recorded.get("output_dir") == str(run.path) else f" --output-dir {shlex.quote(str(run.path))}"
    more += " --trust-code" if any(not_only_data([Layer("", recorded, is_data=True)])) else ""
    return (
        f"To go on: nbhelpers run {shlex.quote(str(place))} --notebooks 3-4 --set training.resume=true{more}, or in "
        "notebook 03 training = {..., 'resume': True}. To begin anew, run notebook 03 with training.resume=false."
    )


def _is_read(key: str) -> bool:
    """Whether a setting decides which problems are asked, how, or of which model."""
    return key.startswith(("model.name", "model.revision", "lora.", "dataset.", "reward."))


def _other_settings(params: RunParams, run: RunDirectory) -> dict[str, tuple[Any, Any]]:
    """The settings that the run was not made with. A commit that is named now, and was the newest then, is the same."""
    recorded = run.read_manifest()
    commits = recorded.get("dataset", {}).get("revisions", {})
    newest = {
        "model.revision": recorded.get("model_revision"),
        "dataset.revision": commits.get("dataset.path"),
        "dataset.eval_revision": commits.get("dataset.eval_path"),
    }
    found = differing_settings(recorded.get("parameters") or {}, params.as_dict())
    return {key: pair for key, pair in found.items() if pair != (None, newest.get(key))}


def _refuse_other_settings(params: RunParams, run: RunDirectory) -> None:
    if run.read_manifest().get("parameters") is None:
        raise TrainingRefused(
            f"{run.path} holds a model and no manifest.json that says what it was trained with, so it cannot go on: "
            "use another --output-dir, or training.resume=false, which moves what is there to previous/."
        )
    differences = _other_settings(params, run)
    if not differences:
        return
    if not extends(differences):
        advice = (
            "Data, model and what is learnt never change inside a run: give back its values, or begin another run with "
            "--output-dir. training.resume=false begins anew here and moves this run to previous/."
        )
    elif params.training.resume != "extend":
        advice = "training.resume=extend goes on with them; without these settings, true goes on as the run began."
    else:
        return
    raise TrainingRefused(f"{run.path} was begun with other settings:\n{settings_table(differences)}\n{advice}")


def _end(params: RunParams, sealed: Mapping[str, Any]) -> float:
    """The last step that these parameters ask for; infinity where epochs were changed and only the data can tell."""
    known = sealed["max_steps"] if sealed["length"] == _length(params) else float("inf")
    return params.training.max_steps or known


def _length(params: RunParams) -> list:
    return [params.training.max_steps, params.training.num_train_epochs]


def _checkpoints(run: RunDirectory) -> list[Path]:
    """The newest first."""
    return sorted(run.checkpoints_dir.glob("checkpoint-*"), key=_step_of, reverse=True)


def _step_of(folder: Path) -> int:
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1
