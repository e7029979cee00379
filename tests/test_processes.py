"""Several processes share one run: the same prompts, samples and gradients whatever their number, and one end for all.

Without GPUs they are CPU processes that talk over gloo, started as `nbhelpers run` starts them.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from nbhelpers.evaluation import evaluate
from nbhelpers.params import ParamsError, RunParams
from nbhelpers.policy import draws, load_final_model, load_policy
from nbhelpers.problems import load_problems
from nbhelpers.runs import RunDirectory, read_seal
from nbhelpers.training import (
    TrainingError,
    TrainingStopped,
    first_answers,
    first_problems,
    launching,
    num_processes,
    train,
)
from nbhelpers.training.resuming import last_whole_checkpoint

# Three prompts x 4 completions; two processes share a group. Plain gradient descent from B = 0: the adapter's B after
# the first step is minus the learning rate times its gradient.
STEP = {
    "per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "num_generations": 4, "max_steps": 2,
    "save_steps": 1, "max_completion_length": 24, "probes": 0, "learning_rate": 0.1,
    "grpo": {"optim": "sgd", "max_grad_norm": 0.0, "lr_scheduler_type": "constant"},
}  # fmt: skip

HOURS = 10_000  # steps: such a training does not end by itself while a test waits for its end


def parameters(folder, processes, evaluation=None, **training):
    section = STEP | {"num_processes": processes} | training
    sections = {"dataset": {"max_samples": 192}, "evaluation": evaluation or {}}
    return RunParams.load("smoke", output_dir=folder, training=section, **sections)


def trained(folder, processes, **training):
    params = parameters(folder, processes, **training)
    lines = []
    policy = load_policy(params.model, params.lora, params.training)
    result = train(policy, load_problems(params.dataset), params, RunDirectory(folder), on_log=lines.append)
    return RunDirectory(folder), result, lines


def samples(run, *columns, step=None):
    rows = run.read_jsonl(run.samples_path)
    return [[row[column] for column in columns] for row in rows if step in (None, row["step"])]


def gradient(run):
    adapter = load_file(run.checkpoints_dir / "checkpoint-1" / "adapter_model.safetensors")
    return {name: -value / STEP["learning_rate"] for name, value in adapter.items() if "lora_B" in name}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("alone"), 1)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_the_number_of_processes_changes_neither_prompts_nor_samples_nor_gradient(alone, tmp_path, processes):
    run, result, lines = trained(tmp_path, processes)
    assert [(line["step"], line["max_steps"]) for line in lines] == [(1, 2), (2, 2)], "the parent follows the metrics"
    assert result.steps == 2 and result.adapter_norm == pytest.approx(alone[1].adapter_norm, rel=1e-3)
    assert samples(run, "step", "group", "index", "pid") == samples(alone[0], "step", "group", "index", "pid")
    written = ("completion", "reward", "advantage")
    assert samples(run, *written, step=1) == samples(alone[0], *written, step=1)
    theirs, ours = gradient(run), gradient(alone[0])
    assert max(value.abs().max() for value in ours.values()) > 1e-3
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=0, atol=1e-5, msg=name)
    batch = run.read_manifest()["batch"]
    assert batch == {"completions_per_step": 12, "prompts_per_step": 3}
    (run.path / "logs" / "launcher.log").unlink()
    _, again, _ = trained(tmp_path, processes, resume=True)
    assert again.adapter_norm == result.adapter_norm and not (run.path / "logs" / "launcher.log").exists()


def test_what_is_drawn_for_a_prompt_depends_on_its_place_alone():
    everything = draws(7, range(6), 4, 5, step=3)
    assert torch.equal(everything[8:16], draws(7, [2, 3], 4, 5, step=3))
    assert everything.shape == (24, 5) and everything.min() >= 0 and everything.max() < 1
    others = [draws(8, range(6), 4, 5, step=3), draws(7, range(6), 4, 5, step=4), draws(7, range(1, 7), 4, 5, step=3)]
    assert not any(torch.equal(everything, other) for other in others)


@pytest.mark.parametrize(
    ("device", "accumulation", "processes", "each"),
    [(96, 1, 2, (48, 1)), (4, 2, 2, (4, 1)), (4, 3, 2, (3, 2)), (1, 2, 8, (1, 1)), (64, 8, 8, (64, 1))],
)
def test_a_step_is_shared_as_it_is(device, accumulation, processes, each):
    section = {"per_device_train_batch_size": device, "gradient_accumulation_steps": accumulation}
    training = RunParams.load("smoke", training=section).training
    plan, one = training.batch_plan(processes), training.batch_plan()
    assert (plan.per_device_train_batch_size, plan.gradient_accumulation_steps) == each
    assert (plan.completions_per_step, plan.prompts_per_step) == (one.completions_per_step, one.prompts_per_step)
    assert f"{processes} processes share" in plan.notices[-1]


def test_processes_that_cannot_share_a_step_are_told_how_many_can():
    with pytest.raises(ParamsError, match="7 processes cannot share the 8 .* 4, 8.* a multiple of 7"):
        RunParams.load("full").training.batch_plan(7)


@pytest.mark.parametrize(("gpus", "asked", "taken"), [(0, "auto", 1), (8, "auto", 8), (3, "auto", 2), (8, 4, 4)])
def test_auto_takes_the_gpus_that_can_share_a_step(monkeypatch, gpus, asked, taken):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert num_processes(RunParams.load("full", training={"num_processes": asked})) == taken


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(TrainingError, match="is 4, and there are 2 GPUs"):
        num_processes(RunParams.load("full", training={"num_processes": 4}))


def test_torch_still_knows_no_cpu_with_a_number(tmp_path):
    """When this fails, what `launching.take_place` registers can go."""
    torch.save({"moment": torch.zeros(2)}, tmp_path / "optimizer.pt")
    with pytest.raises(RuntimeError, match="cpu:0"):
        torch.load(tmp_path / "optimizer.pt", map_location=torch.device("cpu", 0))


def test_each_process_takes_the_gpu_of_its_rank(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    launching.take_place()
    monkeypatch.setenv("LOCAL_RANK", "3")
    launching.take_place()
    assert taken == [3]


def test_a_process_on_a_cpu_loads_what_it_kept(monkeypatch):
    """Where the first load succeeds, torch knows cpu:0 and the line in `take_place` can go."""
    shipped = [entry for entry in torch.serialization._package_registry if "nbhelpers" not in entry[2].__module__]
    monkeypatch.setattr(torch.serialization, "_package_registry", shipped)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    torch.save(torch.ones(2), kept := io.BytesIO())
    with pytest.raises(RuntimeError, match="cpu:0"):
        torch.load(io.BytesIO(kept.getvalue()), map_location=torch.device("cpu", 0))
    launching.take_place()
    assert torch.load(io.BytesIO(kept.getvalue()), map_location=torch.device("cpu", 0)).tolist() == [1, 1]


def ranks_of(starter):
    """Process numbers of the ranks below a process, in order."""
    found = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in found.splitlines()[1:]]
    launchers = {pid for pid, parent, line in rows if int(parent) == starter and "accelerate.commands.launch" in line}
    return [int(pid) for pid, parent, line in rows if parent in launchers and "nbhelpers.training" in line]


def are_gone(pids):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if not any(os.path.exists(f"/proc/{pid}") for pid in pids):
            return True
        time.sleep(0.1)
    return False


def stopping_after(step, stop):
    ranks = []

    def on_log(line):
        if line["step"] == step and not ranks:
            ranks.extend(ranks_of(os.getpid()))
            stop(ranks)

    return ranks, on_log


def long_run(folder, on_log, **training):
    params = parameters(folder, 2, max_steps=HOURS, **training)
    policy = load_policy(params.model, params.lora, params.training)
    return train(policy, load_problems(params.dataset), params, RunDirectory(folder), on_log=on_log)


@pytest.mark.slow
def test_evaluation_in_two_processes_writes_the_file_that_one_writes(alone, tmp_path):
    run = alone[0]
    shutil.copytree(run.path, tmp_path / "again")
    sections = {"evaluation": {"pass_k": 2, "pass_problems": 5, "plain_problems": 3}}
    written = []
    for folder, processes in ((run.path, 1), (tmp_path / "again", 2)):
        params = parameters(folder, processes, **sections)
        there = RunDirectory(folder)
        policy = load_final_model(there.final_model_dir, params.model)
        result = evaluate(policy, load_problems(params.dataset), params, there)
        assert result == there.read_json(there.evaluation_path)
        asked = result.pop("conditions")["problems"]
        assert len(asked) > 64, "more than a batch, so that both processes have one"
        files = (there.predictions_path, there.pass_path, there.plain_path)
        written.append([path.read_bytes() for path in files] + [result, asked])
    assert written[0] == written[1]


@pytest.mark.slow
def test_the_first_look_of_two_processes_is_that_of_one(tmp_path):
    params = parameters(tmp_path, 1)
    problems, counted = first_problems(load_problems(params.dataset), params), []
    alone = first_answers(params, problems, progress=counted.append)
    together = first_answers(parameters(tmp_path, 2), problems, progress=counted.append)
    assert len(alone) == 64 and {len(group) for group in alone} == {4} and sum(counted) == 2 * 64
    assert len({completion.text for group in alone for completion in group}) > 64
    assert together == alone and not list((tmp_path / "logs").glob("first-answers*"))


@pytest.mark.slow
def test_a_killed_process_ends_all_and_the_run_goes_on_with_another_number(tmp_path):
    ranks, on_log = stopping_after(2, lambda ranks: os.kill(ranks[1], signal.SIGKILL))
    with pytest.raises(TrainingError) as error:
        long_run(tmp_path, on_log)
    assert len(ranks) == 2 and are_gone(ranks)
    said = str(error.value)
    assert "Process 1 of 2 was killed by SIGKILL" in said and "rank-1.log" in said and "resume=true" in said
    kept = read_seal(last_whole_checkpoint(RunDirectory(tmp_path)))["step"]
    for processes in (1, 2):
        run, result, _ = trained(tmp_path, processes, max_steps=kept + processes, resume="extend")
        assert (result.resumed_from, result.steps) == (kept + processes - 1, kept + processes)
    assert [step for (step,) in samples(run, "step")] == [step for step in range(1, kept + 3) for _ in range(12)]


@pytest.mark.slow
def test_an_interrupt_ends_every_process(tmp_path):
    def interrupt(ranks):
        raise KeyboardInterrupt

    ranks, on_log = stopping_after(1, interrupt)
    with pytest.raises(TrainingStopped, match="resume=true"):
        long_run(tmp_path, on_log, save_steps=1000)
    assert len(ranks) == 2 and are_gone(ranks)
    assert last_whole_checkpoint(RunDirectory(tmp_path)), "the step was finished, and kept"


@pytest.mark.slow
def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path):
    params = parameters(tmp_path, 2, max_steps=HOURS)
    settings = launching.command("nbhelpers.training", params, 2)
    settings = settings[settings.index("nbhelpers.training") :]
    starter = subprocess.Popen([sys.executable, "-m", *settings], stdout=subprocess.DEVNULL)
    metrics = RunDirectory(tmp_path).metrics_path
    deadline = time.monotonic() + 600
    while not metrics.is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    ranks = ranks_of(starter.pid)
    starter.kill()
    starter.wait()
    assert len(ranks) == 2 and are_gone(ranks)
