"""Training that ends before its last step: a checkpoint where there is time for one, one sentence on how it goes on.

The first SIGINT (Ctrl-C, Kernel > Interrupt), SIGTERM or SIGHUP asks: the step is finished, a checkpoint is written,
and training ends. A second SIGINT ends it at once. A gradient or a weight that is NaN or infinite ends it too: no later
step could learn, and none may be kept.
"""

from __future__ import annotations

import contextlib
import errno
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nbhelpers.params import PlainError
from nbhelpers.runs import RunDirectory
from nbhelpers.training.configuration import TrainingError
from nbhelpers.training.recording import note_state
from nbhelpers.training.resuming import TrainingRefused, last_whole_checkpoint, what_is_kept

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EIO)
# What torch and safetensors say of the same.
_DISK_WORDS = ("(os error", "inline_container.cc", "iostream error", "No space left on device")


class TrainingStopped(TrainingError):
    """Training was stopped by a person or by the system, and can go on; the message says from where and how."""

    exit_code = 130


class UnsoundError(TrainingError):
    """The policy or its gradient is no longer made of numbers; going on would not help."""


@dataclass
class StopRequest:
    """What asked training to stop, the name of a signal; None: nothing has."""

    by: str | None = None


@contextlib.contextmanager
def stops_go_to(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Inside, SIGINT, SIGTERM and SIGHUP (a terminal that was closed, a connection that broke) call `handler`; off the
    main thread, where none arrive, nothing changes, nor does SIGHUP under `nohup`, which ignores it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hangup = getattr(signal, "SIGHUP", signal.SIGTERM)  # Windows has none
    ignored = signal.getsignal(hangup) == signal.SIG_IGN
    taken = {signal.SIGINT, signal.SIGTERM} | (set() if ignored else {hangup})
    before = {number: signal.signal(number, handler) for number in taken}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Inside, the signals of `stops_go_to` ask instead of ending the process."""
    request = StopRequest()

    def ask(number: int, frame: Any) -> None:
        if request.by and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.by = signal.Signals(number).name
        with contextlib.suppress(RuntimeError):  # it came in the middle of another print
            print("Training stops after this step, with a checkpoint; a second interrupt stops it at once.", flush=True)

    with stops_go_to(ask):
        yield request


def soundness_callback(run: RunDirectory, warn: Callable[[str], None]) -> Any:
    """A callback for the trainer that looks at every gradient before it reaches the weights, and at the weights after.

    Both stand before the step's line and checkpoint are written, so that nothing broken is kept. With float16 the
    gradient is left to its scaler, which skips such steps on purpose.

    Args:
        warn: told what was found before the `UnsoundError` is raised.
    """
    from transformers import TrainerCallback

    def stop(what: str) -> None:
        checkpoint = last_whole_checkpoint(run)
        kept = f"The last good checkpoint is {checkpoint}." if checkpoint else "There is no checkpoint yet."
        sentence = (
            f"{what} {kept} Going on with the same settings would come to the same: train anew with a lower "
            "training.learning_rate, and look at the rewards of the last steps."
        )
        warn(sentence)
        raise UnsoundError(sentence)

    class SoundnessCallback(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            gradients = (parameter.grad for parameter in model.parameters() if parameter.grad is not None)
            if not args.fp16 and not are_finite(gradients):
                stop(
                    f"The gradient of step {state.global_step + 1} is NaN or infinite: training stopped before it "
                    "reached the weights."
                )

        def on_step_end(self, args, state, control, model=None, **kwargs):
            if not are_finite(p.detach() for p in model.parameters() if p.requires_grad):
                stop(f"The weights are NaN or infinite after step {state.global_step}: the policy is destroyed.")

    return SoundnessCallback()


def are_finite(tensors: Iterable[Any]) -> bool:
    """Whether all values are. The norms tell, so that nothing is copied and one answer is waited for."""
    import torch

    found = list(tensors)
    return not found or bool(torch.stack([n.float() for n in torch._foreach_norm(found)]).isfinite().all())


@contextlib.contextmanager
def ending_in_words(run: RunDirectory) -> Iterator[None]:
    """Whatever ends training early leaves a note in the manifest, and a sentence on what is kept and how it goes on.

    Raises:
        TrainingStopped: it was interrupted.
        TrainingError: the disk is full, or does not allow what was to be written.
    """
    try:
        yield
    except KeyboardInterrupt:
        note_state(run, "stopped", "interrupted")
        raise TrainingStopped(f"Training was interrupted. {what_is_kept(run)}") from None
    except TrainingRefused:
        raise
    except PlainError as error:
        note_state(run, "stopped" if isinstance(error, TrainingStopped) else "failed", str(error))
        if not isinstance(error, UnsoundError):
            error.args = (f"{error} {what_is_kept(run)}".strip(),)
        raise
    except Exception as error:
        note_state(run, "failed", f"{type(error).__name__}: {error}")
        kept = what_is_kept(run)
        if trouble := disk_trouble(error):
            raise TrainingError(f"Training could not write any more: {trouble}. Mend that first. {kept}") from error
        error.add_note(kept)
        raise


def disk_trouble(error: Exception) -> str | None:
    """The line on a disk that is full or does not allow to be written on; None where the error is of another kind."""
    if isinstance(error, OSError) and error.errno in _DISK:
        return f"{error.strerror}{f' ({error.filename})' if error.filename else ''}"
    line = (str(error).splitlines() or [""])[0]
    return line if any(words in line for words in _DISK_WORDS) else None
