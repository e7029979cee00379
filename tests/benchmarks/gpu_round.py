"""All GPU measurements in one go, each with a time limit, a JSON line for whatever is known as soon as it is known.

usage: python gpu_round.py --model DIR [--steps NAME ...] [--seconds 1700] [--out DIR] [--list]

What has to be on the machine: this checkout; Python with what the extras `gpu` and `test` list; and DIR, Gemma-3 4B or
what `make_true_shape.py TOKENIZER_DIR DIR` writes there in 15 s from Gemma-3's tokenizer. Nothing is downloaded: the
notebooks get drawn problems. Compile caches go to OUT/cache and stay, so that a step called `...-warm` finds what one
before it left; `...-cold` begins with an empty one of its own. PYTHONDONTWRITEBYTECODE does not reach the steps: the
first of them compiles the libraries' sources, about 20 s, and the others find them compiled (`python -m compileall -q
-j 0 SITE` beforehand spares the first one too, and where SITE cannot be written to, all).

A step runs in a process of its own. When its time is up, it and everything that it started is killed, by a mark in
their environment, for kernels and servers leave its process group; and the next step waits until the card is as empty
as before the first. What a step prints is in OUT/<step>.log; its JSON lines are printed here as they come, with its
name. A step that does not fit into what is left of --seconds is left out, and a line says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
MARK = "NBHELPERS_ROUND"
SHORT = ("training.max_steps=5", "training.max_completion_length=256")
DECODE = ("--engines", "merged", "--profile")
PATIENCE = 30.0  # seconds that the card gets to become empty


@dataclass(frozen=True)
class Step:
    """One measurement: the program with its arguments, the seconds it is expected to take and may take at most, and
    whether it begins with empty caches.
    """

    name: str
    command: tuple[str, ...]
    expected: int
    limit: int
    cold: bool = False


def steps_of(model: str, data: str, out: Path) -> list[Step]:
    """All steps, what matters most first. The expected seconds are guesses from an H100 of 2026-11-24."""

    def bench(name: str, *arguments: str) -> tuple[str, ...]:
        return (sys.executable, str(HERE / name), *arguments)

    def arm(which: str, *more: str) -> tuple[str, ...]:
        return bench("bench_gpu_step.py", which, "--model", model, *more)

    def series(name: str, backend: str, *more: str) -> tuple[str, ...]:
        sets = [word for one in (f"model.name={model}", f"dataset.path={data}", *SHORT) for word in ("--set", one)]
        return bench("bench_gpu_series.py", "--backend", backend, "--out", str(out / name), *sets, *more)

    def tests(*names: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "pytest", "-q", "-s", "-m", "gpu", *(str(HERE.parent / "gpu" / n) for n in names))

    ours = ("ours", "--shapes", "8x8x512", "1x4x256", "--steps", "5", "--warm-up", "2")
    stock = ("stock", "--shapes", "8x8x512", "--steps", "3", "--warm-up", "1", "--clocked", "0")
    return [
        Step("ours-cold", arm(*ours), 170, 240, cold=True),
        Step("fused-test", tests("test_fused.py"), 60, 150),
        Step("transformers-cold", series("transformers-cold", "transformers"), 260, 420, cold=True),
        Step("decode", bench("bench_decode.py", "--model", model, *DECODE), 150, 270),
        Step("free24-cold", series("free24-cold", "transformers", "--free", "24"), 250, 330, cold=True),
        Step("free24-warm", series("free24-warm", "transformers", "--free", "24"), 200, 330),
        Step("ours-warm", arm(*ours), 110, 200),
        Step("ours-profiled", arm(*ours, "--profile"), 220, 300),
        Step("unsloth-cold", series("unsloth-cold", "unsloth"), 480, 590, cold=True),
        Step("stock", arm(*stock), 310, 400),
        Step("transformers-warm", series("transformers-warm", "transformers"), 160, 300),
        Step("free16-warm", series("free16-warm", "auto", "--free", "16"), 250, 400),
        Step("unsloth-warm", series("unsloth-warm", "unsloth"), 400, 590),
        Step("notebooks-test", tests("test_four_notebooks.py", "test_unsloth.py", "test_vllm.py"), 400, 590),
        Step("server-test", tests("test_real_server.py"), 150, 300),
    ]  # fmt: skip


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def used_gib() -> float:
    """GiB of the first visible GPU that are taken, by whomever; 0 without one."""
    from nbhelpers.runs import find_gpus

    gpus = find_gpus()
    return gpus[0].total - gpus[0].free if gpus else 0.0


def marked(mark: str = "") -> list[int]:
    """The processes that carry a mark in their environment, wherever they went; without one those of any round."""
    found, sought = [], f"{MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it ended, or is somebody else's
            continue
        if any(word.startswith(sought) for word in words) and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def end_all(mark: str = "", patience: float = 10.0) -> list[int]:
    """End what carries the mark: asked first, then killed. Returns the processes that had to be killed."""
    there: list[int] = []
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not (there := marked(mark)):
            break
        for pid in there:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        until = time.monotonic() + patience
        while marked(mark) and time.monotonic() < until:
            time.sleep(0.1)
    return there


class Watched:
    """A step under way: what it prints goes to its log, JSON among it to the round's own output at once."""

    def __init__(self, step: Step, out: Path, surroundings: dict[str, str]):
        self.step, self.started, self.last, self.peak = step, time.monotonic(), "", 0.0
        self.log = (out / f"{step.name}.log").open("w")
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(step.command, env=surroundings, text=True, errors="replace", **pipes)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.started, 1)

    def read(self) -> None:
        for line in self.process.stdout:
            self.last = line.strip()[:300] or self.last
            self.log.write(f"[{self.seconds:7.1f} s] {line}")
            self.log.flush()
            with contextlib.suppress(ValueError):
                found = json.loads(line[line.index("{") :])
                say(step=self.step.name, at=self.seconds, said=found)

    def wait(self, limit: float, used: Callable[[], float]) -> int | None:
        """Its exit code, or None when its time is up."""
        while self.seconds < limit:
            self.peak = max(self.peak, used())
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(timeout=0.5)
        return None


def run_step(step: Step, out: Path, limit: float, empty: float, *, used: Callable[[], float] = used_gib) -> int | None:
    """Run one step and say what it gave. Returns its exit code; None where its time was up.

    Args:
        empty: GiB of the card that were taken before the first step.
    """
    mark, cache, warm = uuid.uuid4().hex, out / "cache" / step.name, out / "cache" / "warm"
    shutil.rmtree(out / step.name, ignore_errors=True)  # a run directory that is finished would not be trained again
    if step.cold:
        shutil.rmtree(cache, ignore_errors=True)
    surroundings = os.environ | {MARK: mark, "NBHELPERS_CACHE": str(cache if step.cold else warm)}
    surroundings |= {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    surroundings["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parents[1]), os.environ.get("PYTHONPATH")]))
    surroundings.pop("PYTHONDONTWRITEBYTECODE", None)
    watched = Watched(step, out, surroundings)
    try:
        code = watched.wait(limit, used)
        took = watched.seconds
    finally:  # an interrupt too
        killed = end_all(mark)
        with contextlib.suppress(subprocess.TimeoutExpired):
            watched.process.wait(timeout=5)
    watched.reader.join(timeout=5)
    until = time.monotonic() + PATIENCE
    while used() > empty + 1 and time.monotonic() < until:
        time.sleep(0.5)
    if step.cold and code == 0 and cache.exists():
        shutil.copytree(cache, warm, dirs_exist_ok=True, symlinks=True)
    say(
        step=step.name, ended=True, rc=code, timed_out=code is None, seconds=took, expected=step.expected,
        peak_gib=round(watched.peak - empty, 1), left_gib=round(used() - empty, 1), killed=killed, last=watched.last,
    )  # fmt: skip
    return code


def missing() -> list[str]:
    """What this checkout needs to run its notebooks, installed or not, and is not on this machine."""
    from packaging.requirements import Requirement

    from nbhelpers.runs import installed_version

    wanted = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text())["project"]["dependencies"]
    return [name for name in (Requirement(line).name for line in wanted) if installed_version(name) is None]


def drawn_data(folder: Path, problems: int = 50) -> Path:
    """Problems that the package draws, with pictures of 512 pixels, as a folder that `dataset.path` takes."""
    from nbhelpers.problems import make_problems

    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for place, row in enumerate(make_problems(problems, seed=7)):
        image = f"images/{place}.png"
        row["image"].resize((512, 512)).save(folder / image)
        rows.append(json.dumps({**{key: value for key, value in row.items() if key != "metadata"}, "image": image}))
    (folder / "items.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="folder of the checkpoint")
    parser.add_argument("--steps", nargs="+", metavar="NAME", help="only these, in this order")
    parser.add_argument("--seconds", type=float, default=1700.0, help="for all of them")
    parser.add_argument("--out", type=Path, default=Path("/tmp/gpu_round"))
    parser.add_argument("--list", action="store_true", help="say the steps and stop")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    known = {step.name: step for step in steps_of(args.model, str(args.out / "data"), args.out)}
    if wrong := set(args.steps or ()) - set(known):
        sys.exit(f"--steps: there is no {', '.join(sorted(wrong))}; allowed are {', '.join(known)}.")
    chosen, until = [known[name] for name in args.steps or known], time.monotonic() + args.seconds
    if args.list:
        for step in chosen:
            say(step=step.name, expected=step.expected, limit=step.limit, command=list(step.command))
        return 0
    if absent := missing():  # a notebook would say so after minutes
        sys.exit(f"These packages are missing here: {', '.join(absent)}. Nothing was run.")
    if left := marked():  # by a round that was killed itself
        say(ended_of_an_earlier_round=left, killed=end_all())
    drawn_data(args.out / "data")
    empty, codes = used_gib(), []
    say(started=True, card_gib_taken=round(empty, 1), expected=sum(step.expected for step in chosen))
    for step in chosen:
        left = until - time.monotonic()
        if left < step.expected * 0.7:
            say(step=step.name, ended=False, left_out=f"{left:.0f} s are left, {step.expected} are expected")
            continue
        codes.append(run_step(step, args.out, min(step.limit, left), empty))
    return max((1 if code is None else code for code in codes), default=0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a time limit around this ends it in its own way
    sys.exit(main())
