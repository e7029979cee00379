"""A small run over several epochs, killed at random times and resumed until it is done, beside an undisturbed one.

    python tests/faults/soak.py --kills 30 --folder FOLDER     # the four notebooks; test_soak.py does a few without

The whole family dies at once, by SIGKILL: the command, its kernel, and whatever they have started. Every second kill
strikes at a random time, the others just after a random step of a later epoch. When a run is done and there are kills
left, another begins. At the end adapter, samples, metrics, predictions and evaluation of each are compared with the
undisturbed one's, clock fields aside.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tiny_process import ENVIRONMENT, settings  # noqa: E402
from tiny_run import TINY_TRAINING  # noqa: E402

from nbhelpers.runs import RunDirectory  # noqa: E402

DATASET = {"max_samples": 60, "eval_fraction": 0.8}  # 12 to train on, 2 of them probes: five steps an epoch
STEPS_OF_EPOCH = 5
TRAINING = {**TINY_TRAINING, "max_steps": 24, "save_steps": 3, "probes": 2, "probe_steps": 4}
EVALUATION = {"pass_k": 2, "pass_problems": 8, "plain_problems": 8}
CLOCK = {"time", "step_time"}
KILLS_OF_A_RUN = 6


def begin(folder: Path, *, notebooks: str | None, resume: bool) -> subprocess.Popen:
    """The series, or without notebooks training and evaluation alone, in a process of its own."""
    command = ["nbhelpers.cli", "run", "smoke", "--notebooks", notebooks] if notebooks else ["nbhelpers.sweep", "smoke"]
    given = settings(TRAINING | ({"resume": True} if resume else {}), DATASET, evaluation=EVALUATION)
    with open(folder.with_suffix(".log"), "a") as log:
        line = [sys.executable, "-m", *command, "--output-dir", str(folder), *given]
        return subprocess.Popen(line, stdout=log, stderr=log, env=ENVIRONMENT)


def kill_all(process: subprocess.Popen) -> None:
    """The command and all that it has started, none of which may say goodbye."""
    for member in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        member.send_signal(signal.SIGKILL)
    process.wait()


def where(run: RunDirectory, since: float) -> str:
    """How far a process has come that was begun at `since`."""
    if run.evaluation_path.is_file():
        return "after evaluation"
    if run.final_model_dir.is_dir():
        return "evaluation" if run.predictions_path.is_file() else "between training and evaluation"
    if not run.metrics_path.is_file() or run.metrics_path.stat().st_mtime < since:
        return "before training, resumed" if run.metrics_path.is_file() else "before training"
    epoch = (last_step(run) or 1) - 1
    return f"training, epoch {epoch // STEPS_OF_EPOCH + 1}"


def last_step(run: RunDirectory) -> int:
    lines = run.read_jsonl(run.metrics_path)
    return lines[-1]["step"] if lines else 0


def until_killed(folder: Path, process: subprocess.Popen, longest: float, at_a_step: bool) -> str | None:
    """Kill the process at a random time, or after a random step of a later epoch; None where it ended before."""
    run, since = RunDirectory(folder), time.time()
    step = random.randint(max(STEPS_OF_EPOCH, last_step(run)) + 1, TRAINING["max_steps"]) if at_a_step else 0
    end = time.monotonic() + (longest if at_a_step else random.uniform(0.05, 0.95) * longest)
    while process.poll() is None:
        there = step and run.metrics_path.is_file() and run.metrics_path.stat().st_mtime > since
        if time.monotonic() > end or (there and last_step(run) >= step):
            time.sleep(random.uniform(0, 0.3) if at_a_step else 0)
            kill_all(process)
            return where(run, since)
        time.sleep(0.02)
    return None


def to_the_end(folder: Path, notebooks: str | None, kills: int, longest: float, kinds: Iterator[bool]) -> list[str]:
    """Run to the end through up to `kills` kills; gives where each struck."""
    struck: list[str] = []
    while True:
        run = RunDirectory(folder)
        begun = run.metrics_path.is_file()
        some = notebooks and begun and not run.evaluation_path.is_file() and "3-4"
        process = begin(folder, notebooks=some or notebooks, resume=begun)
        if len(struck) < kills:
            at_a_step = next(kinds) and last_step(run) < TRAINING["max_steps"]
            if place := until_killed(folder, process, longest / 2 if some else longest, at_a_step):
                struck.append(place)
                print(f"{folder.name} killed: {place}", flush=True)
                continue
        if process.wait():
            raise SystemExit(f"{folder} failed:\n{folder.with_suffix('.log').read_text()[-3000:]}")
        return struck


def results(folder: Path) -> dict[str, object]:
    """What must not depend on having been killed."""
    run = RunDirectory(folder)
    paths = (run.metrics_path, run.samples_path, run.predictions_path, run.pass_path, run.plain_path)
    rows = {path.name: run.read_jsonl(path) for path in paths}
    without_clock = {
        name: [{key: value for key, value in row.items() if key not in CLOCK} for row in lines]
        for name, lines in rows.items()
    }
    return without_clock | {
        "adapter": (run.final_model_dir / "adapter_model.safetensors").read_bytes(),
        "evaluation": run.read_json(run.evaluation_path),
    }


def soak(folder: Path, kills: int, *, notebooks: str | None = "1-4", seed: int = 0) -> list[str]:
    """Raises AssertionError where a killed run came to another result; gives where each kill struck."""
    random.seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    begun, kinds = time.monotonic(), itertools.cycle([True, False])
    to_the_end(folder / "undisturbed", notebooks, 0, 0, kinds)
    longest = time.monotonic() - begun
    print(f"undisturbed: {longest:.0f} s", flush=True)
    expected, struck, number = results(folder / "undisturbed"), [], 0
    while len(struck) < kills:
        number += 1
        place = folder / f"killed-{number}"
        struck += to_the_end(place, notebooks, min(KILLS_OF_A_RUN, kills - len(struck)), longest, kinds)
        found = results(place)
        for what, value in expected.items():
            assert found[what] == value, f"{place.name}: {what} is not as in the undisturbed run"
        print(f"{place.name} is as undisturbed: {', '.join(expected)}", flush=True)
    return struck


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--notebooks", default="1-4")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    place = given.folder or Path(tempfile.mkdtemp())
    print(json.dumps(collections.Counter(soak(place, given.kills, notebooks=given.notebooks, seed=given.seed))))
