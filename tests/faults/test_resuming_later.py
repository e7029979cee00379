"""Going on in a later epoch, at its edge, or in the middle of a rollout: the run is the one that nobody disturbed."""

from __future__ import annotations

import shutil

import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from trl.trainer.utils import RepeatSampler

from nbhelpers.policy import load_policy
from nbhelpers.problems import load_problems
from nbhelpers.runs import RunDirectory
from nbhelpers.training import train, train_if_missing
from nbhelpers.training.inside_trl import order_by_epoch
from nbhelpers.training.resuming import standing

CLOCK = {"time", "step_time"}
# Eight problems, two in a step: an epoch has four steps.
SMALL = {"dataset": {"max_samples": 14}}
EPOCHS = {"max_steps": 10, "save_steps": 1, "max_completion_length": 12, "grpo": {"save_total_limit": 20}}
# A rollout of four prompts serves four steps: twice two halves. An epoch has eight steps.
ROLLOUTS = {
    "max_steps": 10, "save_steps": 3, "max_completion_length": 12,
    "grpo": {"save_total_limit": 20, "steps_per_generation": 2, "num_iterations": 2},
}  # fmt: skip
# A step generates twice and the last of an epoch, which has five problems, once.
GENERATES_TWICE = {
    "max_steps": 6, "save_steps": 1, "max_completion_length": 12,
    "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
    "grpo": {"save_total_limit": 20, "steps_per_generation": 1},
}  # fmt: skip


def undisturbed(tmp_path_factory, tiny_params, training, **sections):
    params = tiny_params(tmp_path_factory.mktemp("run") / "run", training=training, **SMALL | sections)
    run = RunDirectory(params.output_dir)
    policy = load_policy(params.model, params.lora, seed=params.training.seed)
    train(policy, load_problems(params.dataset), params, run)
    return run


@pytest.fixture(scope="module")
def over_epochs(tmp_path_factory, tiny_params):
    return undisturbed(tmp_path_factory, tiny_params, EPOCHS)


@pytest.fixture(scope="module")
def over_rollouts(tmp_path_factory, tiny_params):
    return undisturbed(tmp_path_factory, tiny_params, ROLLOUTS)


@pytest.fixture(scope="module")
def generating_twice(tmp_path_factory, tiny_params):
    return undisturbed(tmp_path_factory, tiny_params, GENERATES_TWICE, dataset={"max_samples": 10})


def steps_of(run):
    return [line["step"] for line in run.read_jsonl(run.metrics_path)]


def saved_steps(run):
    return sorted(int(folder.name.rpartition("-")[2]) for folder in run.checkpoints_dir.glob("checkpoint-*"))


def problems_of(run):
    """The problems of each step that sampled, in the order of their groups."""
    found = {}
    for row in run.read_jsonl(run.samples_path):
        found.setdefault(row["step"], []).append(row["pid"])
    return found


def results(run):
    lines = [{k: v for k, v in line.items() if k not in CLOCK} for line in run.read_jsonl(run.metrics_path)]
    return run.samples_path.read_bytes(), lines, (run.final_model_dir / "adapter_model.safetensors").read_bytes()


def gone_on(run, tiny_params, folder, training, step, **sections):
    """A copy of a run that ended at `step` (or later, without a later checkpoint), resumed to its end."""
    shutil.copytree(run.path, folder)
    there = RunDirectory(folder)
    shutil.rmtree(there.final_model_dir)
    for saved in saved_steps(there):
        if saved > step:
            shutil.rmtree(there.checkpoints_dir / f"checkpoint-{saved}")
    params = tiny_params(folder, training={**training, "resume": True}, **SMALL | sections)
    assert standing(params, there).step == step
    policy = load_policy(params.model, params.lora, seed=params.training.seed)
    train(policy, load_problems(params.dataset), params, there)
    return there


@pytest.mark.parametrize("step", [6, 8, 9])  # in the second epoch, at its edge, in the third
def test_a_run_resumed_in_a_later_epoch_is_the_undisturbed_one(over_epochs, tiny_params, tmp_path, step):
    asked = problems_of(over_epochs)
    epochs = [[pid for step in steps for pid in asked[step]] for steps in (range(1, 5), range(5, 9))]
    assert set(epochs[0]) == set(epochs[1]) and epochs[0] != epochs[1], "each epoch has an order of its own"
    there = gone_on(over_epochs, tiny_params, tmp_path / "run", EPOCHS, step)
    assert problems_of(there) == asked
    assert results(there) == results(over_epochs)


def test_a_checkpoint_waits_for_the_end_of_a_rollout_and_the_run_goes_on_from_there(
    over_rollouts, tiny_params, tmp_path
):
    assert list(problems_of(over_rollouts)) == [1, 5, 9] and steps_of(over_rollouts) == list(range(1, 11))
    assert saved_steps(over_rollouts) == [4, 8, 10], "asked for after 3, 6 and 9; the last is that of the end"
    assert results(gone_on(over_rollouts, tiny_params, tmp_path / "run", ROLLOUTS, 4)) == results(over_rollouts)


def test_a_run_whose_last_step_drew_nothing_anew_is_evaluated(over_rollouts, tiny_params):
    assert train_if_missing(tiny_params(over_rollouts.path, training=ROLLOUTS, **SMALL), over_rollouts) is False


@pytest.mark.parametrize("step", [3, 4])
def test_a_run_whose_steps_generate_more_than_once_goes_on_as_it_was(generating_twice, tiny_params, tmp_path, step):
    again = gone_on(generating_twice, tiny_params, tmp_path / "run", GENERATES_TWICE, step, dataset={"max_samples": 10})
    assert results(again) == results(generating_twice)


def trl_sampler():
    return RepeatSampler(list(range(20)), mini_repeat_count=2, batch_size=4, repeat_count=1, seed=42)


def third_epoch_of_a_resumed_process(sampler):
    """The first of two processes, resumed in the third epoch after one batch, as transformers' Trainer does it."""
    loader = torch.utils.data.DataLoader(list(range(20)), batch_size=4, sampler=sampler)
    loader = skip_first_batches(prepare_data_loader(loader, num_processes=2, process_index=0), 1)
    loader.set_epoch(2)
    return [batch.tolist() for batch in loader]


def third_epoch_undisturbed():
    sampler = trl_sampler()
    order = [list(sampler) for _ in range(3)][-1]
    return [order[start : start + 4] for start in range(0, len(order), 8)][1:]


def test_with_the_mend_several_processes_go_on_in_the_order_of_their_epoch():
    mended = order_by_epoch(trl_sampler(), lambda: 2)
    assert third_epoch_of_a_resumed_process(mended) == third_epoch_undisturbed() and len(mended) == len(trl_sampler())


def test_trl_still_begins_each_process_with_the_order_of_the_first_epoch():
    """When this fails, TRL and accelerate have mended it and `order_by_epoch` can go."""
    assert third_epoch_of_a_resumed_process(trl_sampler()) != third_epoch_undisturbed()
