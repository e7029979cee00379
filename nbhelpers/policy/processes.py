"""Processes that a run starts beside itself: the launcher of several that train, a server."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

# What a launcher sets, and what vLLM sets where it runs without one (`vllm.engine`).
_OF_A_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def environment_apart() -> dict[str, str]:
    """This process's environment without its place among others, for a process that is none of them."""
    return {name: value for name, value in os.environ.items() if name not in _OF_A_LAUNCHER}


def end_group(child: subprocess.Popen, patience: float) -> None:
    """Ask a process that leads a session of its own to end; what is left of it after `patience` seconds is killed."""
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C does not wait
            child.wait(patience)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def with_last_lines(sentence: str, log: Path) -> str:
    """The sentence, and below it the last 15 lines of a log that are not empty."""
    lines = [line.rstrip() for line in log.read_text(errors="replace").splitlines() if line.strip()][-15:]
    return "\n".join([f"{sentence} The last lines of {log}:", *(f"  {line}" for line in lines)])
