"""A small series, killed at random times and resumed until it is done, beside one that nobody disturbs.

    python tests/faults/soak.py --kills 30 --folder FOLDER     # 3 kills are part of the tests (test_soak.py)

The whole series dies at once: the command, its kernel, and whatever they have started, by SIGKILL. When a series is
done and there are kills left, another begins. At the end, adapter, samples, metrics and predictions of each are
compared with the undisturbed one's, clock fields aside.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tiny_process import ENVIRONMENT, settings  # noqa: E402
from tiny_run import TINY_TRAINING  # noqa: E402

from nbhelpers.runs import RunDirectory  # noqa: E402

TRAINING = {**TINY_TRAINING, "max_steps": 12, "save_steps": 3, "probes": 2, "probe_steps": 4}
EVALUATION = {"num_samples": 24, "pass_k": None}
CLOCK = {"time", "step_time", "seconds_per_step", "seconds", "train_runtime", "num_tokens"}


def begin(folder: Path, *, resume: bool, notebooks: str) -> subprocess.Popen:
    training = TRAINING | ({"resume": True} if resume else {})
    command = [sys.executable, "-m", "nbhelpers.cli", "run", "smoke", "--output-dir", str(folder)]
    command += ["--notebooks", notebooks, *settings(training, evaluation=EVALUATION)]
    log = open(folder.with_suffix(".log"), "a")  # noqa: SIM115
    return subprocess.Popen(command, stdout=log, stderr=log, env=ENVIRONMENT)


def kill_all(process: subprocess.Popen) -> None:
    """The command and all that it has started, none of which may say goodbye."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.send_signal(signal.SIGKILL)
    process.wait()


def to_the_end(folder: Path, kills: int, longest: float, notebooks: str) -> list[dict]:
    """Run a series to its end through up to `kills` kills; gives where each struck."""
    struck: list[dict] = []
    while True:
        process = begin(folder, resume=bool(struck), notebooks=notebooks)
        try:
            code = process.wait(random.uniform(1, longest) if len(struck) < kills else None)
        except subprocess.TimeoutExpired:
            kill_all(process)
            run = RunDirectory(folder)
            lines = run.read_jsonl(run.metrics_path)
            struck.append(
                {
                    "step": lines[-1]["step"] if lines else 0,
                    "predictions": len(run.read_jsonl(run.predictions_path)),
                    "trained": run.final_model_dir.is_dir(),
                }
            )
            print(folder.name, "killed", struck[-1], flush=True)
            continue
        if code:
            raise SystemExit(f"{folder} failed:\n{folder.with_suffix('.log').read_text()[-3000:]}")
        return struck


def results(folder: Path) -> dict[str, object]:
    """What must not depend on having been killed."""
    run = RunDirectory(folder)
    rows = {path.name: run.read_jsonl(path) for path in (run.metrics_path, run.samples_path, run.predictions_path)}
    without_clock = {
        name: [{key: value for key, value in row.items() if key not in CLOCK} for row in lines]
        for name, lines in rows.items()
    }
    return without_clock | {
        "adapter": (run.final_model_dir / "adapter_model.safetensors").read_bytes(),
        "evaluation": run.read_json(run.evaluation_path),
    }


def soak(folder: Path, kills: int, *, notebooks: str = "1-4", seed: int = 0) -> list[dict]:
    """Raises AssertionError where a killed series came to another result; gives where each kill struck."""
    random.seed(seed)
    begun = time.monotonic()
    to_the_end(folder / "undisturbed", 0, 0, notebooks)
    longest = time.monotonic() - begun
    expected, struck, number = results(folder / "undisturbed"), [], 0
    while len(struck) < kills:
        number += 1
        struck += to_the_end(folder / f"killed-{number}", min(6, kills - len(struck)), longest, notebooks)
        found = results(folder / f"killed-{number}")
        for what, value in expected.items():
            assert found[what] == value, f"killed-{number}: {what} is not as in the undisturbed run"
        print(f"killed-{number} is as undisturbed: {', '.join(expected)}", flush=True)
    return struck


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--notebooks", default="1-4")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    place = given.folder or Path(tempfile.mkdtemp())
    place.mkdir(parents=True, exist_ok=True)
    print(json.dumps(soak(place, given.kills, notebooks=given.notebooks, seed=given.seed)))
