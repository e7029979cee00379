"""Stages: a line with a clock for the person, a file for what libraries print, and its end where something fails."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time

import pytest

from nbhelpers.runs import log_into, shown_by, stage, stages


@pytest.fixture(autouse=True)
def each_stage_is_shown(monkeypatch):
    monkeypatch.setattr(stages, "_SHOWN_AFTER", 0.0)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The seconds that a stage sees: they stand at 0, however busy the machine is, until a test sets them."""
    now = [0.0]
    monkeypatch.setattr(stages.time, "monotonic", lambda: now[0])
    return now


def test_what_is_printed_by_python_by_descriptor_and_by_a_process_goes_to_the_log(tmp_path, capfd):
    log = log_into(tmp_path)
    with stage("loading weights"):
        print("by Python")
        print("to stderr", file=sys.stderr)
        os.write(1, b"by descriptor\n")
        subprocess.run([sys.executable, "-c", "print('by a process')"], check=True)
    print("afterwards")
    shown = capfd.readouterr()
    assert shown.out == "loading weights: 0 s\nafterwards\n" and shown.err == ""
    assert log.read_text().splitlines() == ["by Python", "to stderr", "by descriptor", "by a process"]


def test_a_logger_set_up_before_is_quiet_inside_and_one_set_up_inside_stays_quiet(tmp_path, capfd):
    before, inside = logging.getLogger("test_stages.before"), logging.getLogger("test_stages.inside")
    early = logging.StreamHandler(sys.stderr)
    before.addHandler(early)
    log = log_into(tmp_path)
    with stage("starting vLLM"):
        inside.addHandler(logging.StreamHandler())
        before.warning("one")
        inside.warning("two")
    before.warning("three")
    inside.warning("four")
    assert capfd.readouterr().err == "three\n"
    assert log.read_text().split() == ["one", "two", "four"]
    assert early.stream is sys.stderr


def test_a_process_that_a_stage_started_goes_on_writing_to_the_log(tmp_path, capfd):
    log = log_into(tmp_path)
    code = "import sys; sys.stdin.read(); print('still here')"
    with stage("starting vLLM"):
        server = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    server.communicate()
    assert "still here" not in capfd.readouterr().out and log.read_text() == "still here\n"


def test_an_error_shows_the_end_of_what_was_logged_in_the_stage(tmp_path, capfd):
    log = log_into(tmp_path)
    with stage("first"):
        print("an old line")
    with pytest.raises(RuntimeError), stage("second"):
        print(*range(100), sep="\n")
        raise RuntimeError("no kernel image")
    shown = capfd.readouterr().out
    assert f"The last lines of {log}:" in shown and "    99" in shown
    assert "    84" not in shown and "an old line" not in shown


def test_stdout_and_the_descriptors_are_back_after_an_error(tmp_path, capfd):
    log_into(tmp_path)
    streams = sys.stdout, sys.stderr
    with pytest.raises(KeyboardInterrupt), stage("first step"):
        raise KeyboardInterrupt
    os.write(1, b"seen\n")
    assert (sys.stdout, sys.stderr) == streams and "seen" in capfd.readouterr().out


def test_a_second_run_in_one_kernel_logs_into_its_own_folder(tmp_path):
    first = log_into(tmp_path / "a")
    with stage("one"):
        logging.getLogger("test_stages.kept").addHandler(logging.StreamHandler())
        print("a")
    second = log_into(tmp_path / "b")
    with stage("two"):
        print("b")
    logging.getLogger("test_stages.kept").warning("later")
    assert first.read_text() == "a\n" and second.read_text() == "b\nlater\n"


def test_a_stage_inside_another_has_its_own_line(tmp_path, capfd):
    log_into(tmp_path)
    with stage("outer"):
        with stage("inner"):
            print("deep")
        print("not so deep")
    assert capfd.readouterr().out == "inner: 0 s\nouter: 0 s\n"


def test_a_stage_that_goes_on_is_announced_with_the_logs_name(tmp_path, capfd, clock):
    log, announced = log_into(tmp_path), ""
    with stage("first step compiles"):
        clock[0] = stages._ANNOUNCED_AFTER
        while not announced:
            time.sleep(0.02)
            announced = capfd.readouterr().out
    assert announced == f"first step compiles \u2026 (what libraries say: {log})\n"
    assert capfd.readouterr().out == f"first step compiles: {stages._ANNOUNCED_AFTER:.0f} s\n"


def test_somebody_else_may_show_the_stages(tmp_path, capfd, clock):
    log_into(tmp_path)
    seen = []
    with shown_by(lambda *one: seen.append(one)), stage("starting vLLM"):
        clock[0] = 1.0
        while ("starting vLLM", 1.0, False) not in seen:
            time.sleep(0.02)
        clock[0] = 2.5
    assert seen[-1] == ("starting vLLM", 2.5, True) and sum(done for _, _, done in seen) == 1
    assert {name for name, _, _ in seen} == {"starting vLLM"}
    assert capfd.readouterr().out == ""


def test_without_a_log_the_clock_runs_and_nothing_is_hidden(capfd, monkeypatch):
    monkeypatch.setattr(stages, "_log", stages._Log())
    with stage("loading weights"):
        print("seen")
    assert capfd.readouterr().out == "seen\nloading weights: 0 s\n"
