"""Among how many processes the tests are shared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psutil

MOST = 4
MEMORY = 3e9  # bytes a worker: torch, a few models of the tests, and the processes that a test starts


def number_of_workers(arguments: Sequence[str], markers: str) -> int:
    """A worker for each core of this process that has the memory for one, but no more than test files are named.

    0 is the process itself, without workers: with one core, for one file, or where tests want the GPU for themselves.

    Args:
        arguments: the files, folders and tests that pytest was given.
        markers: its `-m`.
    """
    if markers == "gpu":
        return 0
    named = {Path(argument.partition("::")[0]) for argument in arguments}
    files = len(named) if all(map(Path.is_file, named)) else MOST
    process = psutil.Process()
    cores = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count()
    workers = min(MOST, files, cores, int(psutil.virtual_memory().available / MEMORY))
    return workers if workers > 1 else 0
