"""Training that ends early: a checkpoint where there is time for one, a sentence, and nothing lost or mixed up."""

from __future__ import annotations

import errno
import html
import signal
import subprocess
import sys

import pytest
from tiny_process import PATIENCE, tiny_training, wait_for_step

from nbhelpers import cli
from nbhelpers.policy import load_policy
from nbhelpers.problems import load_problems
from nbhelpers.runs import RunDirectory, flaw, read_seal, writing
from nbhelpers.show import write_report
from nbhelpers.training import TrainingError, TrainingStopped, stops_go_to, train
from nbhelpers.training.recording import note_state
from nbhelpers.training.resuming import last_whole_checkpoint
from nbhelpers.training.stopping import disk_trouble

GOES_ON = r"To go on: nbhelpers run .*params\.yaml --notebooks 3-4 --set training\.resume=true"


@pytest.fixture
def train_until(tiny_params, tmp_path):
    """Training of 6 steps with a checkpoint every 4, in which `happens` is called with each line of the metrics."""

    def until(happens=None, **training):
        params = tiny_params(tmp_path, training={"max_steps": 6, "save_steps": 4, **training})
        policy = load_policy(params.model, params.lora, seed=params.training.seed)
        return train(policy, load_problems(params.dataset), params, RunDirectory(tmp_path), on_log=happens)

    return until


def at_step(step, do):
    return lambda line: do() if line["step"] == step else None


def test_a_signal_ends_training_after_the_step_with_a_checkpoint(train_until, tmp_path, capsys):
    """SIGTERM to a process of its own: below."""
    handler = signal.getsignal(signal.SIGINT)
    kept = "steps up to 3 .*checkpoint-3 is whole"
    with pytest.raises(TrainingStopped, match=rf"stopped by SIGINT after step 3 of 6.*{kept}.*{GOES_ON}"):
        train_until(at_step(2, lambda: signal.raise_signal(signal.SIGINT)))
    assert signal.getsignal(signal.SIGINT) is handler
    assert "stops after this step" in capsys.readouterr().out
    run = RunDirectory(tmp_path)
    assert not flaw(run.checkpoints_dir / "checkpoint-3") and not run.final_model_dir.exists()
    said = run.read_manifest()["training"]
    assert said["state"] == "stopped" and said["at"] and "SIGINT" in said["why"]
    result = train_until(resume=True)
    assert (result.resumed_from, result.steps) == (3, 6)
    assert run.read_manifest()["training"]["state"] == "finished"


def test_a_terminal_that_is_closed_asks_as_ctrl_c_does_and_what_nohup_ignores_stays_ignored():
    asked, before = [], signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        for _ in range(2):
            with stops_go_to(lambda number, frame: asked.append(number)):
                signal.raise_signal(signal.SIGHUP)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert asked == [signal.SIGHUP]


def test_training_goes_on_where_nobody_reads_its_words_any_more(tmp_path):
    process = tiny_training(tmp_path, max_steps=3, save_steps=100)
    assert process.stdout.readline()
    process.stdout.close()  # `| head -1`, or a terminal that has gone
    said = process.stderr.read()
    assert process.wait(timeout=PATIENCE) == 0 and "rror" not in said and not flaw(tmp_path / "final_model")


def warnings_of(run):
    page = write_report(run.path).read_text()
    return html.unescape(page[: page.index("<h2")])


def test_the_report_says_how_training_ended_that_has_not_come_to_its_end(tmp_path):
    run = RunDirectory(tmp_path)
    run.append_jsonl(run.metrics_path, *({"step": step, "loss": 0.0, "grad_norm": 0.0} for step in (1, 2, 3)))
    note_state(run, "stopped", "Training was stopped by SIGTERM after step 3 of 6.")
    said = warnings_of(run)
    assert "Training is not finished: it stopped at 20" in said and "by SIGTERM after step 3 of 6." in said
    assert "steps up to 3 are recorded, and there is no checkpoint yet" in said
    assert "Every gradient was 0" in said, "what the end of training would have warned of"
    note_state(run, "failed", "ZeroDivisionError: division by zero")
    assert "it failed at 20" in (said := warnings_of(run)) and "ZeroDivisionError: division" in said
    note_state(run, "running")
    assert "it was killed, or its machine went down" in warnings_of(run)
    with writing(run.path, "training"):
        assert "Training is not finished: it goes on" in warnings_of(run)
    note_state(run, "finished")
    assert "not finished" not in warnings_of(run)


def test_a_second_interrupt_ends_training_at_once(train_until, tmp_path):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(TrainingStopped, match=r"was interrupted.*steps up to 2 .*no checkpoint yet.*step 1 again"):
        train_until(at_step(2, twice))


TROUBLE = {
    "full": OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl"),
    "read-only": OSError(errno.EROFS, "Read-only file system", "metrics.jsonl"),
    "torch on a full disk": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 678784 vs 678676"),
    "safetensors on a full disk": ValueError("Error while serializing: I/O error: ... (os error 28)"),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_what_libraries_say_of_a_disk_is_known(trouble):
    said = disk_trouble(TROUBLE[trouble])
    assert said.splitlines() == [said] and disk_trouble(type(TROUBLE[trouble])("something else")) is None


def test_a_disk_that_takes_no_more_is_a_sentence(train_until):
    def fail():
        raise TROUBLE["torch on a full disk"]

    with pytest.raises(TrainingError, match=rf"could not write any more: .*steps up to 5 .*checkpoint-4 is.*{GOES_ON}"):
        train_until(at_step(5, fail))


def test_a_command_that_cannot_write_is_a_sentence(monkeypatch, capsys):
    def fail(run):
        raise TROUBLE["read-only"]

    monkeypatch.setattr("nbhelpers.show.write_report", fail)
    assert cli.main(["report", "a-run"]) == 1
    said = capsys.readouterr().err
    assert (
        said
        == "nbhelpers: nothing could be written any more: Read-only file system (metrics.jsonl). Mend that first.\n"
    )


def test_a_fault_of_ours_keeps_its_traceback_and_says_what_is_kept(train_until, tmp_path):
    with pytest.raises(ZeroDivisionError) as fault:
        train_until(at_step(5, lambda: 1 / 0))
    assert "checkpoint-4 is whole" in fault.value.__notes__[0]
    assert RunDirectory(tmp_path).read_manifest()["training"]["state"] == "failed"


def test_sigterm_to_a_process_ends_it_with_a_checkpoint_and_one_sentence(tmp_path):
    process = tiny_training(tmp_path, max_steps=200, save_steps=100)
    step = wait_for_step(process, tmp_path, 2)
    process.terminate()
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("nbhelpers.training: ")]
    assert len(lines) == 1 and "stopped by SIGTERM" in lines[0] and "To go on: nbhelpers run" in lines[0]
    whole = [folder for folder in (tmp_path / "checkpoints").glob("checkpoint-*") if not flaw(folder)]
    assert len(whole) == 1 and step <= int(whole[0].name.rpartition("-")[2]) < 200


@pytest.mark.slow
def test_a_disk_that_fills_up_in_a_checkpoint_leaves_the_one_before(tmp_path):
    """A limit on a file's size stands for the full disk: the optimiser's state does not fit any more."""
    process = tiny_training(tmp_path, max_steps=60, save_steps=2)
    wait_for_step(process, tmp_path, 3)
    subprocess.run([sys.executable, "-c", LIMIT, str(process.pid)], check=True)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and "Traceback" not in said
    last = read_seal(last_whole_checkpoint(RunDirectory(tmp_path)))["step"]
    assert "could not write any more" in said and f"checkpoint-{last} is whole" in said
    broken = [folder.name for folder in (tmp_path / "checkpoints").glob("checkpoint-*") if flaw(folder)]
    assert broken == [f"checkpoint-{last + 2}"]


LIMIT = "import resource, sys; resource.prlimit(int(sys.argv[1]), resource.RLIMIT_FSIZE, (200_000, 200_000))"
