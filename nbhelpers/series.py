"""The four notebooks in order, through papermill, into one run directory."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbhelpers.params import SECTIONS, PlainError, RunParams, trusting
from nbhelpers.policy import better_backend, needs_gpu
from nbhelpers.runs import RunDirectory, find_gpus, installed_version, writing
from nbhelpers.training import is_trained, standing, stops_go_to, what_is_kept

if TYPE_CHECKING:
    from traitlets.config import Config

_CHECKOUT = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = _CHECKOUT if _CHECKOUT.is_dir() else Path(__file__).resolve().parent / "_notebooks"


class SeriesError(PlainError, RuntimeError):
    """A notebook failed, or the selection of notebooks makes no sense."""


class SeriesStopped(SeriesError):
    """A person or the system stopped the series; the message says how it goes on."""

    exit_code = 130


@dataclass(frozen=True)
class NotebookRun:
    """One executed notebook and its seconds."""

    name: str
    path: Path
    seconds: float


def notebook_paths() -> list[Path]:
    """The series' notebooks in order, 01 to 04."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def select_notebooks(selection: str | None) -> list[Path]:
    """`3-4`, `2`, `1,3` or None for all.

    Raises:
        SeriesError: the selection names a notebook that there is not.
    """
    paths = notebook_paths()
    if selection is None:
        return paths
    chosen: set[int] = set()
    for part in selection.split(","):
        match = re.fullmatch(r"\s*(\d{1,3})\s*(?:-\s*(\d{1,3})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= len(paths):
            raise SeriesError(
                f"--notebooks {selection!r}: expected numbers from 1 to {len(paths)} such as 3, 3-4 or 1,3."
            )
        chosen |= set(range(first, last + 1))
    return [paths[number - 1] for number in sorted(chosen)]


def run_series(
    params: RunParams, *, overrides: dict[str, dict] | None = None, notebooks: Iterable[Path] | None = None, echo=print
) -> list[NotebookRun]:
    """Execute the notebooks one after the other; the executed copies go to `<output_dir>/notebooks/`.

    An executed copy that is there stays until the new one is finished, and moves to `previous/` then; one that fails is
    kept beside it as `<name>.failed.ipynb`. What a notebook's parameters cell was edited to does not count here.

    Args:
        params: what the series runs with; its preset and output directory reach every notebook.
        overrides: sections as `parse_overrides` gives them; they override the preset in every notebook.
        echo: receives the progress lines, and what the notebooks print.

    Raises:
        SeriesError: a cell failed or the kernel died; the message names the notebook, the cell and the error. Later
            notebooks are not run.
        SeriesStopped: SIGINT (Ctrl-C) or SIGTERM came, which was handed on to the kernel.
        TrainingError: what is in the run directory does not go with this series; nothing was run.
        RunError: another process is writing there.
    """
    run = RunDirectory(params.output_dir)
    paths = list(notebooks) if notebooks is not None else notebook_paths()
    _refuse_early(params, run, paths)
    os.environ["NBHELPERS_BATCH"] = "1"
    done: list[NotebookRun] = []
    backend = _backend_to_import(params)
    with writing(run.notebooks_dir, "nbhelpers run"), _signals_to_the_kernel() as kernels, trusting(params.needs_trust):
        for place, path in enumerate(paths, start=1):
            echo(f"[{place}/{len(paths)}] {path.stem} ...")
            given = {"preset": params.preset, "output_dir": str(run.path.resolve()), **(overrides or {})}
            parameters = {**_edited_sections(path, echo), **given}
            started = time.perf_counter()
            kernels.take_next()
            if backend and (following := paths[place : place + 1]):
                training = following[0].name.startswith("03")
                kernels.prepare(
                    "__import__('nbhelpers.policy').policy.import_libraries"
                    f"({backend!r}, vllm={params.model.fast_inference}, training={training})"
                )
            unfinished = run.notebooks_dir / f"{path.stem}.running.ipynb"
            _execute(path, unfinished, parameters, run, kernels, echo)
            target = run.notebooks_dir / path.name
            if target.exists():
                echo(f"The earlier {path.name} moved to {run.set_aside(target)}.")
            unfinished.replace(target)
            done.append(NotebookRun(path.stem, target, time.perf_counter() - started))
            echo(f"[{place}/{len(paths)}] {path.stem} done in {done[-1].seconds:.0f} s")
    return done


def _refuse_early(params: RunParams, run: RunDirectory, paths: Sequence[Path]) -> None:
    """What notebook 03 or 04 would refuse after the notebooks before it have run for minutes."""
    numbers = {path.name[:2] for path in paths}
    if "03" in numbers:
        standing(params, run)
    elif "04" in numbers:
        is_trained(params, run)
    if run.path.exists():
        with writing(run.path, "nbhelpers run"):
            pass


def _execute(
    path: Path, unfinished: Path, parameters: dict, run: RunDirectory, kernels: _Kernels, echo: Callable[[str], None]
) -> None:
    """Execute one notebook into `unfinished`, or raise the sentence on why it did not come to its end."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    why = kept = ""
    try:
        papermill.execute_notebook(
            str(path),
            str(unfinished),
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            stdout_file=_Echo(echo),
            cwd=str(Path.cwd()),
            start_timeout=300,
            config=_kernel_config(),
            kernel_manager_class=kernels.manager_class(),
        )
    except papermill.PapermillExecutionError as error:
        why = f"failed in cell {error.exec_count or error.cell_index} ({error.ename}: {error.evalue})."
        kept = what_is_kept(run) if error.ename == "KeyboardInterrupt" else ""
    except DeadKernelError:
        why = (
            "ended because its kernel died: it was killed, often by the system for want of memory, or a reward did not "
            "come back to Python (then its lines stand above)."
        )
        kept = what_is_kept(run)
    except KeyboardInterrupt:
        why, kept = "was interrupted.", what_is_kept(run)
    except OSError as error:
        why, kept = f"could not be written ({error}).", what_is_kept(run)
    if not why and not kernels.stopped_by:
        return
    why = why or "was the last: the series was stopped."
    if unfinished.is_file():
        failed = unfinished.with_name(f"{path.stem}.failed.ipynb")
        unfinished.replace(failed)
        kept += f" The notebook as far as it came: {failed}"
    sentence = f"{path.name} {why} {kept.strip()}"
    if kernels.stopped_by:
        raise SeriesStopped(f"Stopped by {kernels.stopped_by}. {sentence}")
    raise SeriesError(sentence)


def _backend_to_import(params: RunParams) -> str:
    """The backend whose libraries the notebooks will import, half a minute of each on a GPU; "" on a CPU, whose cores
    the notebook before wants for itself.
    """
    model, gpus = params.model, find_gpus()
    if not gpus or not needs_gpu(model, model.backend) or params.training.num_processes != 1:
        return ""
    backend = model.backend
    if backend == "auto":
        both = installed_version("unsloth")
        backend = better_backend(model, params.training, gpus[0]) if both else "transformers"
    # Unsloth takes half a GiB of the card when it is imported.
    return "" if backend == "unsloth" and gpus[0].free < 32 else backend


class _Kernels:
    """The kernels of a series, and the signal that asked it to stop."""

    def __init__(self) -> None:
        self.running: Any = None
        self.next: Any = None
        self.stopped_by: str | None = None

    def prepare(self, line: str) -> None:
        """Start the next notebook's kernel while this one works; before anything else it executes `line`."""
        from jupyter_client import KernelManager

        self.next = KernelManager(kernel_name="python3", config=_kernel_config())
        self.next.start_kernel(cwd=str(Path.cwd()), extra_arguments=[f"--IPKernelApp.exec_lines={line}"])

    def take_next(self) -> None:
        """Let the next notebook have the kernel that was prepared, unless it ended."""
        self.running, self.next = self.next, None
        if self.running and not self.running.is_alive():
            self.running = None

    def manager_class(self) -> type:
        """What nbclient makes its kernel's manager of."""
        from jupyter_client import AsyncKernelManager, KernelManager

        class Prepared(KernelManager):
            def __new__(cls, *args: Any, **kwargs: Any) -> KernelManager:
                return self.running  # of another class, so that it is not initialised again

        class Watched(AsyncKernelManager):
            def __init__(manager, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self.running = manager

        return Prepared if self.running else Watched

    def interrupt(self) -> bool:
        """Interrupt the running kernel; False where there is none."""
        provisioner = self.running.provisioner if self.running else None
        if provisioner is None or not provisioner.has_process:
            return False
        os.kill(provisioner.pid, signal.SIGINT)
        return True


@contextlib.contextmanager
def _signals_to_the_kernel() -> Iterator[_Kernels]:
    """Inside, Ctrl-C and SIGTERM interrupt the kernel, in which training then stops with a checkpoint; a second one
    stops it at once, and a third one ends the series without waiting for the kernel.
    """
    kernels, times = _Kernels(), itertools.count(1)

    def hand_on(number: int, frame: Any) -> None:
        if kernels.stopped_by == "SIGHUP" == signal.Signals(number).name:
            return  # the shell and the terminal both send it
        kernels.stopped_by = signal.Signals(number).name
        if next(times) > 2 or not kernels.interrupt():
            raise KeyboardInterrupt

    try:
        with stops_go_to(hand_on):
            yield kernels
    finally:
        if kernels.next and kernels.next.has_kernel:
            kernels.next.shutdown_kernel(now=True)


def _edited_sections(path: Path, echo) -> dict[str, dict]:
    """The sections that somebody has filled in a notebook's parameters cell and saved, each emptied again: a batch run
    is what its command says. That they are left out is said.
    """
    import papermill

    found = papermill.inspect_notebook(str(path))
    edited = {name: found[name]["default"] for name in SECTIONS if name in found and found[name]["default"] != "{}"}
    for name, value in edited.items():
        shown = value if len(value) <= 80 else f"{value[:80]} …"
        echo(f"      Note: {path.name} was saved with {name} = {shown}, which a batch run leaves out; --set gives it.")
    return dict.fromkeys(edited, {})


def _kernel_config() -> Config:
    """Encrypt what goes to and from the kernel, where both sides can.

    ipykernel 7.3 to 7.4 (seen 2026-11) warn at the start of every kernel on plain TCP. Sockets of the file system (IPC)
    would end that as well, but their paths, under the user's home, may have no more than 107 characters.
    """
    import zmq
    from jupyter_client import KernelManager
    from traitlets.config import Config

    config = Config()
    if KernelManager.class_traits().get("transport_encryption") and zmq.has("curve"):
        config.KernelManager.transport_encryption = "auto"
    return config


class _Echo:
    """A notebook's printed lines, passed on as they come, set off from the series' own."""

    def __init__(self, echo) -> None:
        self._echo, self._rest = echo, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self._echo(f"      {line}")
        return len(text)

    def flush(self) -> None:
        """Nothing is held back but an unfinished line."""
