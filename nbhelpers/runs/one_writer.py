"""One process at a time writes in a run directory; the second one is told who the first is.

The lock is the operating system's, on `.writer` in the directory, so that it ends with the process that holds it,
however that ends. It is held while training or evaluation writes, and not by a kernel that is idle or a page that is
read.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from nbhelpers.params import PlainError
from nbhelpers.runs.files import to_json

_HELD: set[Path] = set()  # by this process, which may write more than one thing at once
_BUSY = (errno.EACCES, errno.EAGAIN)


class RunError(PlainError, RuntimeError):
    """A run directory cannot be written in: another process is writing there, or the disk does not allow it."""


@contextlib.contextmanager
def writing(folder: Path, what: str) -> Iterator[None]:
    """Inside, this process is the only one that writes in `folder`; `what` it does is shown to others who try.

    Processes that train together share one lock: the first one takes it.

    Raises:
        RunError: another process holds the lock, or nothing can be written there.
    """
    folder = folder.resolve()
    if folder in _HELD:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".writer", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written in: {error.strerror or error}. Give another --output-dir."
        ) from error
    try:
        _take(descriptor, folder)
        with contextlib.suppress(OSError):  # on a full disk the lock holds without its text
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, to_json(_about(what)), 0)
        _HELD.add(folder)
        try:
            yield
        finally:
            _HELD.discard(folder)
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def who_writes(folder: Path) -> str | None:
    """What is writing in a folder now, in words ("training, process 4711 on a-host, since ..."); None: nobody is."""
    folder = folder.resolve()
    if folder in _HELD:  # opening and closing the file here would give up the lock
        return f"this process, {os.getpid()}"
    try:
        descriptor = os.open(folder / ".writer", os.O_RDWR)
    except OSError:
        return None
    try:
        import fcntl

        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return None
    except OSError as error:
        return _named(descriptor) if error.errno in _BUSY else None
    finally:
        os.close(descriptor)
    return None


def _take(descriptor: int, folder: Path) -> None:
    try:
        import fcntl  # not on Windows, where nothing is locked

        # Of lockf and flock, only lockf's lock is not handed on to a process that was forked.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return
    except OSError as error:
        if error.errno in _BUSY:
            raise RunError(_busy(descriptor, folder)) from None
        print(f"{folder} lies where files cannot be locked ({error.strerror}): see that nobody else writes there.")


def _about(what: str) -> dict[str, str | int]:
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    return {"what": what, "pid": os.getpid(), "host": platform.node(), "since": since}


def _busy(descriptor: int, folder: Path) -> str:
    who = _named(descriptor)
    return f"another process is writing in {folder} ({who}). Wait for its end, stop it, or give another --output-dir."


def _named(descriptor: int) -> str:
    try:
        first = json.loads(os.pread(descriptor, 4096, 0))
        return f"{first['what']}, process {first['pid']} on {first['host']}, since {first['since']}"
    except (ValueError, KeyError, TypeError):
        return "it has not said who it is"
