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
    the main thread (where notebooks and commands train); an asynchronous one is cancelled. Code in C that never comes
    back to Python can only be ended with its process: that happens `GRACE` seconds later, after the lines of Python
    that it was called from are printed. A call on another thread, or one that blocks asynchronously, has no limit.
    """
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):

        async def reward(*args: Any, **kwargs: Any) -> list[float | None]:
            with _named_errors(name, seconds):
                paid = await asyncio.wait_for(function(*args, **kwargs), seconds)
            return _checked(name, paid, kwargs["completions"])

    else:

        def reward(*args: Any, **kwargs: Any) -> list[float | None]:
            with _named_errors(name, seconds), _time_limit(seconds):
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
        raise RewardError(
            f"reward {name!r} had not answered after {seconds:g} seconds, the limit of reward.timeout for one call: "
            "look for what it waits for, or raise the limit."
        ) from None
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split()) or "without a message"
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(last.filename)}, line {last.lineno}"
        raise RewardError(f"reward {name!r} raised {type(error).__name__}: {said} ({place}).") from error


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """End what runs inside after so many seconds, again each second where it would not end, and the process at last."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: Any) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    if last := sys.__stderr__:  # a notebook's own stderr is no file
        faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=last)
    try:
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            faulthandler.cancel_dump_traceback_later()
            signal.signal(signal.SIGALRM, before)


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
