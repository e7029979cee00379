"""The round of GPU measurements loses nothing of what it has heard, and leaves nothing behind on the card."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from pathlib import Path

import pytest

from nbhelpers.params import RunParams, parse_overrides

BENCHMARKS = Path(__file__).parent / "benchmarks"
CHILD_THAT_GOES_ITS_OWN_WAY = """
import os, signal, subprocess, sys, time
print("measured", '{"ms": 7.5}', flush=True)
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(300)"
child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print('{"child": %d}' % child.pid, flush=True)
time.sleep(300)
"""


@pytest.fixture
def gpu_round(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_round

    monkeypatch.setattr(gpu_round, "PATIENCE", 0.5)
    return gpu_round


def a_step(gpu_round, code, **changes):
    return gpu_round.Step("some", (sys.executable, "-c", code), **({"expected": 1, "limit": 60} | changes))


def said(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def stays(pid, seconds=10.0):
    """Whether a process is still there after a while: one that is being killed needs a moment to go."""
    until = time.monotonic() + seconds
    while lives(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return lives(pid)


def lives(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_what_a_step_says_in_json_is_said_at_once_with_its_name(gpu_round, tmp_path, capsys):
    (tmp_path / "some").mkdir()  # the run directory of an earlier go
    code = "print('[ 1.0 s] {\"ms\": 3}'); print('a {word}'); print('{\"step\": 2}')"
    assert gpu_round.run_step(a_step(gpu_round, code), tmp_path, 60, 0.0, used=lambda: 0.0) == 0
    *facts, end = said(capsys)
    assert [fact["said"] for fact in facts] == [{"ms": 3}, {"step": 2}] and {fact["step"] for fact in facts} == {"some"}
    assert end["rc"] == 0 and end["ended"] and not end["timed_out"] and end["killed"] == [] and end["seconds"] < 30
    assert "a {word}" in (tmp_path / "some.log").read_text() and not (tmp_path / "some").exists()


def test_a_step_finds_the_checkout_and_keeps_what_it_compiles(gpu_round, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPATH", "/some/site")
    found = "{'found': [sys.dont_write_bytecode, os.environ['PYTHONPATH']]}"
    code = f"import json, os, sys; print(json.dumps({found}))"
    gpu_round.run_step(a_step(gpu_round, code), tmp_path, 60, 0.0, used=lambda: 0.0)
    assert said(capsys)[0]["said"]["found"] == [False, f"{BENCHMARKS.parents[1]}:/some/site"]


def test_when_a_steps_time_is_up_all_that_it_started_is_gone_and_what_it_said_is_kept(
    gpu_round, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(gpu_round, "end_all", functools.partial(gpu_round.end_all, patience=1.0))
    step = a_step(gpu_round, CHILD_THAT_GOES_ITS_OWN_WAY)
    assert gpu_round.run_step(step, tmp_path, 4, 0.0, used=lambda: 0.0) is None
    first, second, end = said(capsys)
    assert first["said"] == {"ms": 7.5} and end["timed_out"] and end["rc"] is None
    child = second["said"]["child"]
    assert not stays(child) and end["killed"] == [child]  # it had been asked first


def test_an_interrupt_ends_the_step_under_way(gpu_round, tmp_path):
    seen = []

    def interrupted():
        seen.extend(gpu_round.marked())
        if len(seen) > 2:
            raise KeyboardInterrupt
        time.sleep(0.1)
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        gpu_round.run_step(a_step(gpu_round, "import time; time.sleep(300)"), tmp_path, 60, 0.0, used=interrupted)
    assert seen and not any(map(stays, seen))


def test_the_next_step_waits_until_the_card_is_empty(gpu_round, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_round, "PATIENCE", 20.0)
    taken = iter([30.0] * 4)
    gpu_round.run_step(a_step(gpu_round, "pass"), tmp_path, 60, 0.0, used=lambda: next(taken, 0.2))
    (end,) = said(capsys)
    assert end["peak_gib"] == 30.0 and end["left_gib"] == 0.2


def test_a_cold_step_begins_with_empty_caches_and_leaves_them_for_the_warm_ones(gpu_round, tmp_path, capsys):
    code = (
        "import json, os; from pathlib import Path; place = Path(os.environ['NBHELPERS_CACHE']); "
        "print(json.dumps({'there': place.is_dir()})); place.mkdir(parents=True, exist_ok=True); "
        "(place / 'kernel').write_text('')"
    )
    for cold in (True, True, False):
        gpu_round.run_step(a_step(gpu_round, code, cold=cold), tmp_path, 60, 0.0, used=lambda: 0.0)
    assert [fact["said"]["there"] for fact in said(capsys) if "said" in fact] == [False, False, True]


def test_what_does_not_fit_into_the_time_that_is_left_is_left_out_by_name(gpu_round, tmp_path, capsys, monkeypatch):
    short, long = a_step(gpu_round, "pass"), a_step(gpu_round, "raise SystemExit('not run')", expected=500)
    steps = [short, gpu_round.Step("long", long.command, 500, 600)]
    monkeypatch.setattr(gpu_round, "steps_of", lambda *args: steps)
    assert gpu_round.main(["--seconds", "60", "--out", str(tmp_path)]) == 0
    left_out = [fact for fact in said(capsys) if "left_out" in fact]
    assert [fact["step"] for fact in left_out] == ["long"] and "500 are expected" in left_out[0]["left_out"]
    with pytest.raises(SystemExit, match="there is no shrot; allowed are some, long"):
        gpu_round.main(["--steps", "shrot"])


def test_each_program_takes_the_arguments_that_the_round_gives_it(gpu_round, tmp_path, monkeypatch):
    steps, series = gpu_round.steps_of("/a/model", str(tmp_path), tmp_path), []
    for step in steps:
        program, *given = step.command[1:]
        if program == "-m":
            assert given[0] == "pytest" and all(Path(name).is_file() for name in given if name.endswith(".py"))
            continue
        monkeypatch.setattr(sys, "argv", [program, *given])
        args = __import__(Path(program).stem).arguments()
        if "overrides" in args:
            params = RunParams.load(args.preset, **parse_overrides([f"model.backend={args.backend}", *args.overrides]))
            series.append((params.training.max_steps, params.model.backend, args.free))
    assert len(series) == 7 and {backend for _, backend, _ in series} == {"transformers", "unsloth", "auto"}
    assert {free for *_, free in series} == {None, 24.0, 16.0} and {length for length, *_ in series} == {5}
    assert len({step.name for step in steps}) == len(steps) and all(step.expected < step.limit < 600 for step in steps)


def test_the_drawn_problems_are_read_as_a_persons_own(gpu_round, tmp_path):
    from nbhelpers.problems import load_problems

    params = RunParams.load("gemma3_smoke", dataset={"path": str(gpu_round.drawn_data(tmp_path / "data", 12))})
    problems = load_problems(params.dataset)
    assert len(problems.train) + len(problems.evaluation) == 12 and max(problems.train[0]["image"].size) == 512


def test_a_package_that_is_missing_is_named_before_anything_runs(gpu_round, monkeypatch, tmp_path):
    import nbhelpers.runs as runs

    found = runs.installed_version
    monkeypatch.setattr(runs, "installed_version", lambda name: None if name == "latex2mathml" else found(name))
    with pytest.raises(SystemExit, match="missing here: latex2mathml. Nothing was run"):
        gpu_round.main(["--out", str(tmp_path), "--steps", "decode"])
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert not gpu_round.missing()


def test_this_process_carries_no_mark(gpu_round):
    assert os.getpid() not in gpu_round.marked()
