"""A gradient or a weight that is NaN or infinite ends a run: no later step could learn, and none may be kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from nbhelpers.runs import RunDirectory
from nbhelpers.training.configuration import TrainingError
from nbhelpers.training.resuming import last_whole_checkpoint


class UnsoundError(TrainingError):
    """The policy or its gradient is no longer made of numbers; going on would not help."""


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
