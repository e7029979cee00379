"""The four notebooks in order, through papermill, into one run directory."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nbhelpers.params import SECTIONS, PlainError, RunParams, trusting
from nbhelpers.runs import RunDirectory

if TYPE_CHECKING:
    from traitlets.config import Config

_CHECKOUT = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = _CHECKOUT if _CHECKOUT.is_dir() else Path(__file__).resolve().parent / "_notebooks"


class SeriesError(PlainError, RuntimeError):
    """A notebook failed, or the selection of notebooks makes no sense."""


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
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
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

    Args:
        params: what the series runs with; its preset and output directory reach every notebook.
        overrides: sections as `parse_overrides` gives them; they override the preset in every notebook.
        echo: receives the progress lines, and what the notebooks print.

    Raises:
        SeriesError: a cell failed; the message names the notebook, the cell and the error, and the partly executed
            notebook is kept. Later notebooks are not run.
    """
    import papermill

    run = RunDirectory(params.output_dir)
    paths = list(notebooks) if notebooks is not None else notebook_paths()
    given = {"preset": params.preset, "output_dir": str(run.path.resolve()), **(overrides or {})}
    os.environ["NBHELPERS_BATCH"] = "1"
    done = []
    for place, path in enumerate(paths, start=1):
        target = run.notebooks_dir / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        echo(f"[{place}/{len(paths)}] {path.stem} ...")
        started = time.perf_counter()
        parameters = {**_edited_sections(path, echo), **given}
        try:
            with trusting(params.needs_trust):
                papermill.execute_notebook(
                    str(path),
                    str(target),
                    parameters=parameters,
                    kernel_name="python3",
                    progress_bar=False,
                    stdout_file=_Echo(echo),
                    cwd=str(Path.cwd()),
                    config=_kernel_config(),
                )
        except papermill.PapermillExecutionError as error:
            raise SeriesError(
                f"{path.name} failed in cell {error.exec_count or error.cell_index} "
                f"({error.ename}: {error.evalue}). The notebook as far as it came: {target}"
            ) from error
        seconds = time.perf_counter() - started
        done.append(NotebookRun(path.stem, target, seconds))
        echo(f"[{place}/{len(paths)}] {path.stem} done in {seconds:.0f} s")
    return done


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
