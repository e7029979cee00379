"""Several processes for one run: `accelerate launch` started from here and followed to its end.

The processes are those of `python -m nbhelpers.training` (or another module that takes a preset), each on the GPU of
its rank; without a GPU they compute on the CPU. They write in the run directory, and what they print is in `logs/`
there, a file a rank. Whoever starts them stays and looks on: at the first rank's words here, at `metrics.jsonl` through
`MetricsFollower`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nbhelpers.params import ModelParams, ParamsError, RunParams, parse_overrides, trusting
from nbhelpers.policy import Policy, end_group, environment_apart, serve, with_last_lines
from nbhelpers.runs import RunDirectory, words_end_nothing
from nbhelpers.training.configuration import TrainingError, is_first_process, launched
from nbhelpers.training.stopping import TrainingStopped

_LOGS, _STARTED_BY = "NBHELPERS_RANK_LOGS", "NBHELPERS_STARTED_BY"
_PATIENCE = 40.0  # seconds in which the processes may end their step with a checkpoint; torchrun gives them 30
# In torchrun's summary, below "Root Cause" (torch 2.11 and 2.13): which rank ended first, and how.
_FIRST_TO_END = re.compile(r"Root Cause.*?rank\s*:\s*(\d+).*?exitcode\s*:\s*(-?\d+)", re.S)


def launch(module: str, params: RunParams, processes: int, *, look: Callable[[], None] = lambda: None) -> None:
    """Run `python -m module` with these parameters in `processes` processes, and return at their end.

    Args:
        module: takes a preset, `--set`, `--output-dir` and `--trust-code`. With `model.vllm_server: auto` the server is
            started first, where none of this process runs yet, and all of them use it.
        look: called a few times a second, and at the end.

    Raises:
        TrainingError: a process failed or was killed. The others were ended; the sentence has its last lines.
        KeyboardInterrupt: as it came; every process was asked to stop first, and has.
    """
    logs = RunDirectory(params.output_dir).path / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for old in logs.glob("rank-*.log"):
        old.unlink()
    if params.model.starts_server:
        serve(params.model, params.lora.r)
    (first := logs / "rank-0.log").touch()
    with (
        trusting(params.needs_trust),
        open(logs / "launcher.log", "wb") as log,
        open(first, errors="replace") as words,
    ):

        def look_on() -> None:
            print(words.read(), end="", flush=True)
            look()

        child = subprocess.Popen(
            command(module, params, processes),
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env=_environment(logs),
            start_new_session=True,  # a Ctrl-C reaches this process alone, which then ends all of them
        )  # fmt: skip
        try:
            while child.poll() is None:
                look_on()
                time.sleep(0.2)
        finally:
            end_group(child, _PATIENCE)  # the launcher ends its processes
            look_on()
            if not first.stat().st_size:  # it never came to speak: the launcher's log says why
                first.unlink()
    if child.returncode:
        raise TrainingError(_what_happened(logs, child.returncode, processes))


def _environment(logs: Path) -> dict[str, str]:
    import torch

    mine = {_LOGS: str(logs), _STARTED_BY: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    on_cpu = {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true"}
    return environment_apart() | mine | on_cpu


def command(module: str, params: RunParams, processes: int) -> list[str]:
    """The line that `launch` runs: every parameter goes along, so that no file is read twice."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    return [*launcher, "--main_process_port", "0", "-m", module, *params.as_arguments()]


def _what_happened(logs: Path, code: int, processes: int) -> str:
    told = logs / "launcher.log"
    found = _FIRST_TO_END.search(told.read_text(errors="replace"))
    if found is None:
        return with_last_lines(f"The launcher of {processes} processes ended with exit code {code}.", told)
    rank, own = int(found[1]), int(found[2])
    where = logs / f"rank-{rank}.log"
    how = f"was killed by {signal.Signals(-own).name}" if own < 0 else f"ended with exit code {own}"
    what = f"Process {rank} of {processes} {how}, and the others were ended."
    return with_last_lines(what, where if where.is_file() else told)


class MetricsFollower:
    """Calls `on_log` with each line that training in other processes adds to `metrics.jsonl`, as `train` does."""

    def __init__(self, run: RunDirectory, on_log: Callable[[dict], None] | None) -> None:
        self.run, self.on_log = run, on_log
        self._begun, self._seen, self._last = time.time(), None, -1
        self._first: dict | None = None

    def __call__(self) -> None:
        path = self.run.metrics_path
        stamp = (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None
        if stamp == self._seen or self.on_log is None:
            return
        self._seen = stamp
        for line in self.run.read_jsonl(path):  # those of an earlier run, or of the steps before a checkpoint, are old
            if line["time"] >= self._begun and line["step"] > self._last:
                self._last = line["step"]
                self._first = self._first or line
                ends = self.run.read_manifest()["max_steps"]
                self.on_log({**line, "max_steps": ends, "seconds_per_step": self._pace(line)})

    def _pace(self, line: dict) -> float:
        steps = line["step"] - self._first["step"]
        return (line["time"] - self._first["time"]) / steps if steps else line.get("step_time") or 0.0


# in the processes


def in_processes(name: str, work: Callable[[RunParams], None], argv: list[str] | None = None) -> int:
    """The `main` of a module that a launcher starts with a preset: take this process's place and work there.

    Returns:
        The exit code: 0, 1 after an error and 130 after a stop, which are said.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {name}")
    parser.add_argument("preset", nargs="?", default="smoke")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides")
    parser.add_argument("--output-dir")
    parser.add_argument("--trust-code", action="store_true", help="let the parameter file bring code of its own")
    arguments = parser.parse_args(argv)
    words_end_nothing()
    if launched():
        take_place()
    try:
        sections = parse_overrides(arguments.overrides)
        trusted = {"source": "--set", "trust_code": arguments.trust_code}
        work(RunParams.load(arguments.preset, output_dir=arguments.output_dir, **trusted, **sections))
    except (ParamsError, RuntimeError, OSError) as error:
        if is_first_process() or not isinstance(error, TrainingStopped):
            print(f"{name}: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    return 0


def take_place() -> None:
    """What a process of several does first: prints into its own log, works on the GPU of its rank (without this all of
    them would load the model on the first), and ends when the process that started them all has gone.
    """
    import torch

    if folder := os.environ.get(_LOGS):
        log = os.open(Path(folder) / f"rank-{os.environ.get('RANK', '0')}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
    if starter := os.environ.get(_STARTED_BY):
        threading.Thread(target=_end_without, args=(int(starter),), daemon=True).start()
    if torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # accelerate 1.15 names the CPU of a process cpu:0 and transformers 5.17 loads the optimiser's state to there, which
    # torch up to 2.13 does not know: no run in several CPU processes could go on (2026-11-24).
    torch.serialization.register_package(15, _no_name, _as_it_is)


def _no_name(storage: Any) -> None:
    """Storages are named as before when they are saved."""


def _as_it_is(storage: Any, place: str) -> Any:
    return storage if place == "cpu:0" else None


@contextlib.contextmanager
def meeting() -> Iterator[None]:
    """Inside, the processes of a launcher can talk to each other without a trainer; none leaves before all are done."""
    import torch
    from accelerate import PartialState

    together = PartialState(cpu=not torch.cuda.is_available())  # on CPUs they meet only where it is told so
    yield
    together.wait_for_everyone()  # one that goes while another still talks can abort it
    together.destroy_process_group()


def is_followed() -> bool:
    """Whether the process that started this one shows the metrics itself."""
    return _LOGS in os.environ


def _end_without(starter: int) -> None:
    while True:
        try:
            os.kill(starter, 0)
        except ProcessLookupError:
            print(f"Process {starter}, which started this one, has gone: the end.", flush=True)
            os._exit(1)
        time.sleep(2)


# beside them


def beside_processes(params: RunParams, processes: int) -> ModelParams:
    """How the process that starts others loads the policy to look at it: without vLLM, whose memory could not be given
    back to the first of them, and without Unsloth, which compiles for minutes. A served vLLM is there for it too.
    """
    if processes == 1 or params.model.served:
        return params.model
    return params.model.model_copy(update={"backend": "transformers", "fast_inference": False})


@contextlib.contextmanager
def out_of_the_way(policy: Policy) -> Iterator[None]:
    """Inside, the policy of this process lies in main memory and leaves the GPU to the first of the others.

    Raises:
        TrainingError: vLLM runs in this process, whose memory cannot be given back.
    """
    import torch

    if policy.holds_vllm:
        raise TrainingError(
            "vLLM runs in this process and holds the memory that the first of several would need: restart the kernel, "
            "and do not sample before training; or set training.num_processes=1."
        )
    model, device = policy.model, policy.model.device
    if device.type != "cuda":
        yield
        return
    model.to("cpu")
    torch.cuda.empty_cache()
    try:
        yield
    finally:
        model.to(device)
