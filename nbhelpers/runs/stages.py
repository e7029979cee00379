"""Stages of long work ("loading weights", "starting vLLM"): a line with a clock, and a file for what libraries print.

    log_into(run.path)
    with stage("loading weights"):
        ...

The line goes to the notebook or the terminal; `shown_by` sends it elsewhere, such as into the live view. What
libraries print meanwhile, from C and from processes that they start as well, goes to `libraries.log` in the run
directory; where a stage fails, the end of that is shown.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

LOG_NAME = "libraries.log"
LAST_LINES = 15  # of the log, shown with an error
_SHOWN_AFTER = 1.0  # seconds; a shorter stage is not worth a line
_ANNOUNCED_AFTER = 5.0  # seconds until a line of a stage that goes on, where lines cannot be written over


class _Words:
    """A stream whose failures end nothing: of a terminal that was closed, or a pipe that nobody reads any more."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def words_end_nothing() -> None:
    """From now on what this process prints is lost where it cannot be written, and the work goes on; a character that
    the terminal has not is spelt out.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, _Words(stream))


Show = Callable[[str, float, bool], None]  # a stage's name, its seconds so far, whether it is over


class _Log(io.TextIOBase):
    """Stands in for `sys.stdout` and `sys.stderr`. Loggers that are set up meanwhile keep it, so it is never closed,
    and what comes later goes to the log of that time.
    """

    encoding, errors = "utf-8", "replace"
    path: Path | None = None
    descriptor = -1

    def open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        if self.descriptor < 0:
            self.descriptor = descriptor
        else:  # under the same number, which a library may have kept
            os.dup2(descriptor, self.descriptor)
            os.close(descriptor)
        self.path = path

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):  # a full disk must not end the work
            os.write(self.descriptor, text.encode(errors="replace"))
        return len(text)


def is_interactive() -> bool:
    """Whether a person can answer this kernel.

    `NBHELPERS_BATCH` decides where it is set (`nbhelpers run` sets it to 1; 0 says that somebody is there). Otherwise
    the kernel is asked whether its front end takes input: JupyterLab, VS Code and Colab say yes, papermill and
    nbconvert say no. Outside a notebook nobody is there.
    """
    batch = os.environ.get("NBHELPERS_BATCH", "").strip()
    if batch:
        return batch == "0"
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is not None and bool(getattr(kernel, "_allow_stdin", False))


_log = _Log()
_open_stages: list[str] = []
_shows: list[Show] = []


def log_into(folder: str | os.PathLike) -> Path:
    """From now on what libraries print during a stage goes to `libraries.log` in `folder`. Returns that file's path."""
    path = Path(folder) / LOG_NAME
    if path != _log.path or not path.exists():
        _log.open(path)
    return path


@contextlib.contextmanager
def shown_by(show: Show) -> Iterator[None]:
    """Inside, `show(name, seconds, done)` shows each stage, about once a second, instead of a printed line. It is
    called from another thread, except at the end.
    """
    _shows.append(show)
    try:
        yield
    finally:
        _shows.remove(show)


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Inside, a clock runs beside `name`, and what libraries print goes to the log that `log_into` named.

    A stage inside another one is shown by its own name. An error shows the last lines that were logged in the stage.
    """
    begun, size = time.monotonic(), _logged()
    printed = sys.stdout if not _open_stages else None
    _open_stages.append(name)
    show = _shows[-1] if _shows else _printer(printed)
    over = threading.Event()
    clock = threading.Thread(target=_tick, args=(show, name, begun, over), daemon=True)
    failed = False
    try:
        clock.start()
        with _redirected() if printed is not None and _log.path else contextlib.nullcontext():
            yield
    except Exception:
        failed = True
        raise
    finally:
        over.set()
        clock.join()
        _open_stages.pop()
        show(name, time.monotonic() - begun, True)
        if failed and printed is not None:
            _tell_last_lines(size)


def _tick(show: Show, name: str, begun: float, over: threading.Event) -> None:
    while not over.wait(1.0):
        if name == (_open_stages or [name])[-1]:
            show(name, time.monotonic() - begun, False)


_stdout: list[Any] = []  # of the outermost stage, for those inside it


def _printer(stream: Any) -> Show:
    """Shows a stage as a line: written over each second where somebody watches, else when it goes on and at its end."""
    if stream is not None:
        _stdout[:] = [stream]
    out = _stdout[0]
    watched = is_interactive() or out.isatty()
    quiet = os.environ.get("RANK", "0") != "0"  # of several processes the first one speaks
    said = False

    def show(name: str, seconds: float, done: bool) -> None:
        nonlocal said
        if quiet or seconds < _SHOWN_AFTER:
            return
        if done:
            out.write(f"{chr(13) if watched else ''}{name}: {seconds:.0f} s{' ' * 12}".rstrip(" ") + "\n")
        elif watched:
            out.write(f"\r{name} \u2026 {seconds:.0f} s")
        elif not said and seconds >= _ANNOUNCED_AFTER:
            said = True
            out.write(f"{name} \u2026" + (f" (what libraries say: {_log.path})" if _log.path else "") + "\n")
        out.flush()

    return show


@contextlib.contextmanager
def _redirected() -> Iterator[None]:
    """Inside, descriptors 1 and 2, `sys.stdout`, `sys.stderr` and the loggers that write to them go to the log."""
    streams = (sys.stdout, sys.stderr)
    for stream in streams:
        stream.flush()
    kept = [os.dup(1), os.dup(2)]
    handlers = [handler for handler in _stream_handlers() if handler.stream in streams]
    before = [handler.setStream(_log) for handler in handlers]
    sys.stdout = sys.stderr = _log
    os.dup2(_log.descriptor, 1)
    os.dup2(_log.descriptor, 2)
    try:
        yield
    finally:
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        sys.stdout, sys.stderr = streams
        for handler, stream in zip(handlers, before, strict=True):
            handler.setStream(stream)


def _stream_handlers() -> list[logging.StreamHandler]:
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = {id(handler): handler for logger in loggers for handler in getattr(logger, "handlers", ())}
    return [handler for handler in handlers.values() if type(handler) is logging.StreamHandler]


def _logged() -> int:
    """Bytes in the log so far."""
    return _log.path.stat().st_size if _log.path and _log.path.exists() else 0


def _tell_last_lines(size: int) -> None:
    if not _log.path or _logged() <= size:
        return
    with open(_log.path, "rb") as file:
        file.seek(max(size, _logged() - 20_000))
        lines = file.read().decode(errors="replace").splitlines()[-LAST_LINES:]
    print(f"The last lines of {_log.path}:", *lines, sep="\n    ", flush=True)
