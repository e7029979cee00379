"""Two processes in one run directory: the second is told who the first is, and a dead one holds nobody up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from nbhelpers.runs import RunError, who_writes, writing

HOLDER = (
    "import sys, time, pathlib; from nbhelpers.runs import writing\n"
    "with writing(pathlib.Path(sys.argv[1]), 'training'):\n"
    "    print('held', flush=True); time.sleep(600)"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that writes in `tmp_path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_writer_is_told_who_the_first_is(holder, tmp_path):
    with (
        pytest.raises(RunError, match=rf"\(training, process {holder.pid} on .*, since 20\d\d-") as refused,
        writing(tmp_path, "evaluation"),
    ):
        pass
    assert str(tmp_path) in str(refused.value)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_of_a_process_that_died_holds_nobody_up(holder, tmp_path, end):
    holder.send_signal(end)
    holder.wait()
    with writing(tmp_path, "training"):
        assert str(os.getpid()) in (tmp_path / ".writer").read_text()


def test_a_child_that_outlives_the_writer_holds_nobody_up(tmp_path):
    code = HOLDER.replace("    print", "    import os; os.fork() or (time.sleep(3), os._exit(0)); print")
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    parent.stdout.readline()
    parent.kill()
    parent.wait()
    with writing(tmp_path, "training"):
        assert json.loads((tmp_path / ".writer").read_text())["pid"] == os.getpid()


def test_the_lock_is_held_while_something_is_written_and_no_longer(tmp_path):
    probe = (
        "import sys, pathlib; from nbhelpers.runs import writing\nwith writing(pathlib.Path(sys.argv[1]), 'x'): pass"
    )
    command = [sys.executable, "-c", probe, str(tmp_path)]
    with writing(tmp_path, "training"):
        with writing(tmp_path, "evaluation"):  # the same process, which writes more than one thing
            pass
        assert b"another process is writing" in subprocess.run(command, capture_output=True).stderr
    assert subprocess.run(command, capture_output=True).returncode == 0  # this process is idle now, and still alive


def test_who_writes_is_said_without_taking_or_giving_up_the_lock(holder, tmp_path):
    assert who_writes(tmp_path / "elsewhere") is None and not (tmp_path / "elsewhere").exists()
    assert who_writes(tmp_path).startswith(f"training, process {holder.pid} on ")
    holder.kill()
    holder.wait()
    assert who_writes(tmp_path) is None
    with writing(tmp_path, "training"):
        assert str(os.getpid()) in who_writes(tmp_path)
        command = [sys.executable, "-c", HOLDER, str(tmp_path)]
        assert b"another process is writing" in subprocess.run(command, capture_output=True).stderr


def test_a_place_that_cannot_be_written_in_is_a_sentence(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for place in (file, file / "run"):
        with pytest.raises(RunError, match=r"cannot be written in: .*Give another --output-dir\."), writing(place, "x"):
            pass
