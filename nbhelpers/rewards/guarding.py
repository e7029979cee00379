"""A reward of the user's own, held to what a reward promises: one finite number or None a completion, in time."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import inspect
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nbhelpers.params import PlainError
from nbhelpers.rewards.functions import Reward, completion_text

GRACE = 10.0  # seconds after its time is up in which a call may still come back


class RewardError(PlainError, RuntimeError):
    """A reward function failed; the message names it, and the completion where there is one to name."""


class _TimeUp(BaseException):
    """Not an Exception, so that an `except Exception` in the reward does not swallow it."""


def guarded(name: str, function: Callable[..., Any], seconds: float) -> Reward:
    """The function with its result checked, as a `RewardError` where it is none; asynchronous as the function is.

    A call that takes longer than `seconds` is ended by SIGALRM, which reaches Python code and regular expressions, on
    the main thread (where notebooks and commands train); an asynchronous one is cancelled. What neither reaches, code
    in C that never comes back to Python and all that runs on another thread or blocks asynchronously, can only be ended
    with its process: that happens `GRACE` seconds later, after the lines of Python that it is in are printed.
    """
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):

        async def reward(*args: Any, **kwargs: Any) -> list[float | None]:
            with _named_errors(name, seconds), _ended_at_last(name, seconds):
                paid = await asyncio.wait_for(function(*args, **kwargs), seconds)
            return _checked(name, paid, kwargs["completions"])

    else:

        def reward(*args: Any, **kwargs: Any) -> list[float | None]:
            with _named_errors(name, seconds), _ended_at_last(name, seconds), _interrupted(seconds):
                paid = function(*args, **kwargs)
            return _checked(name, paid, kwargs["completions"])

    reward.__name__ = name  # TRL logs rewards/<__name__>/mean
    return reward


@contextlib.contextmanager
def _named_errors(name: str, seconds: float) -> Iterator[None]:
    try:
        yield
    except (_TimeUp, TimeoutError) as error:
        if isinstance(error, TimeoutError) and str(error):  # the function's own, of a connection say
            raise RewardError(f"reward {name!r} raised TimeoutError: {error}.") from error
        raise RewardError(_late(name, seconds)) from None
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split()) or "without a message"
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(last.filename)}, line {last.lineno}"
        raise RewardError(f"reward {name!r} raised {type(error).__name__}: {said} ({place}).") from error


def _late(name: str, seconds: float) -> str:
    return (
        f"reward {name!r} had not answered after {seconds:g} seconds, the limit of reward.timeout for one call: "
        "look for what it waits for, or raise the limit."
    )


@contextlib.contextmanager
def _interrupted(seconds: float) -> Iterator[None]:
    """End what runs inside after so many seconds, and again each second where it would not end: on the main thread."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: Any) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.signal(signal.SIGALRM, before)


_ends: list[float] = []  # of the calls that run now: when the process ends if they have not
_changing = threading.Lock()


@contextlib.contextmanager
def _ended_at_last(name: str, seconds: float) -> Iterator[None]:
    """End the process where what runs inside comes back neither in time nor in `GRACE` seconds more.

    The clock is faulthandler's, a thread in C, which a call that never lets another thread have the interpreter does
    not stop. There is one for the process, so it is set to the first of the calls that run at once.
    """
    end = time.monotonic() + seconds + GRACE
    warning = threading.Timer(seconds + GRACE / 2, lambda: print(_late(name, seconds), _ENDING, file=sys.__stderr__))
    warning.daemon = True
    _set_clock(_ends.append, end)
    warning.start()
    try:
        yield
    finally:
        warning.cancel()
        _set_clock(_ends.remove, end)


_ENDING = (
    "Nothing can end this call but the end of its process, which comes now; a run goes on from its last checkpoint."
)


def _set_clock(change: Callable[[float], None], end: float) -> None:
    with _changing:
        change(end)
        if _ends and sys.__stderr__:  # a notebook's own stderr is no file
            left = max(min(_ends) - time.monotonic(), 0.001)
            faulthandler.dump_traceback_later(left, exit=True, file=sys.__stderr__)
        else:
            faulthandler.cancel_dump_traceback_later()


def _checked(name: str, paid: Any, completions: Sequence[Any]) -> list[float | None]:
    """The rewards as a list of floats and None.

    Raises:
        RewardError: they are no list, too few or too many, or one of them is no finite number.
    """
    values = paid.tolist() if callable(getattr(paid, "tolist", None)) else paid
    if not isinstance(values, list | tuple):
        given = "None" if values is None else f"one {type(values).__name__}"
        raise RewardError(f"reward {name!r} returned {given}; a reward returns a list, a number for each completion.")
    if len(values) != len(completions):
        raise RewardError(
            f"reward {name!r} returned {len(values)} values for {len(completions)} completions; it returns one for "
            "each, in their order."
        )
    return [_checked_value(name, value, at, completions) for at, value in enumerate(values)]


def _checked_value(name: str, value: Any, at: int, completions: Sequence[Any]) -> float | None:
    if value is None:
        return None
    if not isinstance(value, str | bytes):
        with contextlib.suppress(TypeError, ValueError, OverflowError, RuntimeError):
            if math.isfinite(number := float(value)):
                return number
    text = " ".join(completion_text(completions[at]).split())
    shown = text if len(text) <= 200 else f"{text[:150]} … {text[-40:]}"
    raise RewardError(
        f"reward {name!r} returned {str(value)[:80]!r} for completion {at + 1} of {len(completions)}, {shown!r}; "
        "a reward is a finite number, or None where it cannot judge."
    )
