"""Whether vLLM and the trainer agree on the log-probs of what is sampled, asked before the first step.

What a gap of a few hundredths of a nat does depends on the length: the log-weight of a whole completion is the sum over
its tokens. So a report says what a completion of full length would weigh, and that is what is judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nbhelpers.policy.policy import Policy
from nbhelpers.policy.scoring import completions_as_inputs, log_probs_and_entropies
from nbhelpers.policy.vllm.engine import Engine, prompt_seeds
from nbhelpers.policy.vllm.setup import WITHOUT_VLLM, GenerationError

# Where training stops: the weight that the mode itself gives. A `sequence` mode multiplies a completion by its whole
# weight, and half of it gone is half of the signal gone; a `token` mode weighs each token alone, where rounding leaves
# more than 0.999 (0.003 nats, README) and a hand-over that failed 0.3 (1.1 nats).
STOP = {"sequence": 0.5, "token": 0.9}
# Where it warns: the weight of a whole completion of full length, two standard errors to the bad side. Under a token
# mode it is not multiplied with, but says how far vLLM's completions are from being the trainer's own.
WARN = {"sequence": 0.9, "token": 0.5}

SAMPLED = 128  # tokens of each completion that the check samples at most


@dataclass(frozen=True)
class ParityReport:
    """How far vLLM's log-probs of the sampled tokens lie from the trainer's, in nats per token.

    Attributes:
        mean, max: of the absolute difference over `tokens` tokens.
        kl: KL(vLLM || trainer), by the estimator exp(d) - 1 - d, which is never negative and has the same mean as -d
            with far less noise (http://joschu.net/blog/kl-approx.html).
        error: its standard error.
        length: tokens of a completion of full length, `training.max_completion_length`.
        mode: `vllm_importance_sampling_mode`.
    """

    mean: float
    max: float
    tokens: int
    kl: float
    error: float
    length: int
    mode: str

    @property
    def weight(self) -> float:
        """What a whole completion of full length typically weighs: exp(-length * KL)."""
        return math.exp(-self.length * self.kl)

    @property
    def lowest_weight(self) -> float:
        """The same, with a KL two standard errors larger."""
        return math.exp(-self.length * (self.kl + 2 * self.error))

    @property
    def level(self) -> str:
        """What is weighed: "token" or "sequence"."""
        return self.mode.partition("_")[0]

    @property
    def stops(self) -> bool:
        given = self.weight if self.level == "sequence" else math.exp(-self.kl)
        return not given >= STOP[self.level]

    @property
    def warns(self) -> bool:
        return not self.lowest_weight >= WARN[self.level]

    def __str__(self) -> str:
        return (
            f"vLLM and the trainer differ by {self.mean:.4f} nats per token on average and {self.max:.3f} at most "
            f"({self.tokens} tokens). A completion of {self.length} tokens would weigh {self.weight:.3g} as a whole "
            f"(not below {self.lowest_weight:.3g})"
        )

    def as_manifest(self) -> dict[str, Any]:
        """What `manifest.json` keeps."""
        return vars(self) | {"weight": self.weight, "lowest_weight": self.lowest_weight}


def parity_report(vllm_logps: Any, trainer_logps: Any, mask: Any, *, length: int, mode: str) -> ParityReport:
    """Compare two tensors (completions, tokens) of log-probs where `mask` is true.

    A token without a finite log-prob on both sides counts as an infinite difference: it is what a broken hand-over
    looks like.
    """
    import torch

    gaps = (trainer_logps.double() - vllm_logps.double())[mask.bool()]
    gaps = torch.nan_to_num(gaps, nan=float("inf"), posinf=float("inf"), neginf=float("-inf"))
    tokens = len(gaps)
    if tokens == 0:
        raise GenerationError("vLLM gave no token to compare: every completion was empty.")
    kls = gaps.exp() - 1 - gaps
    kl = float(kls.mean()) if bool(kls.isfinite().all()) else math.inf
    error = float(kls.std()) / math.sqrt(tokens) if tokens > 1 and math.isfinite(kl) else 0.0
    return ParityReport(float(gaps.abs().mean()), float(gaps.abs().max()), tokens, kl, error, length, mode)


def judge_parity(report: ParityReport) -> str | None:
    """None where the two agree, a warning's sentence where they nearly do.

    Raises:
        GenerationError: what is sampled would teach little or nothing: `STOP`.
    """
    if report.stops:
        raise GenerationError(
            f"{report}. Training would go on without an error and learn little or nothing from such completions. "
            "What usually causes it: a vLLM of another version than the tested pins, "
            "weights saved under names that vLLM reads as another model, or a base model that is quantised on one side "
            f"only (model.load_in_4bit). {WITHOUT_VLLM}"
        )
    if not report.warns:
        return None
    means = (
        "Each completion is multiplied by that weight (training.grpo.vllm_importance_sampling_mode=token_truncate "
        "weighs token by token)."
        if report.level == "sequence"
        else "Each token is weighed by itself, so training goes on, from completions that the trainer would not write."
    )
    return f"{report}. Rounding leaves it near 1. {means} {WITHOUT_VLLM}"


def verify(
    policy: Policy, engine: Engine, conversations: Sequence[list[dict]], images: Sequence[Any], **full: Any
) -> tuple[ParityReport, str | None]:
    """Compare vLLM with the trainer on a few prompts before the first step: the report, which is printed, and a warning
    or None.

    Args:
        full: `length` and `mode` of `check_parity`.

    Raises:
        GenerationError: they differ so much that little or nothing would be learnt.
    """
    report = check_parity(policy, engine, conversations, images, **full)
    print(f"Parity: {report}.", flush=True)
    return report, judge_parity(report)


def check_parity(
    policy: Policy, engine: Engine, conversations, images, *, length: int = 512, mode: str = "token_truncate"
) -> ParityReport:
    """Sample one completion per conversation with vLLM and ask both sides for the log-probs of its tokens.

    Args:
        length: tokens of a completion of full length; up to `SAMPLED` of them are sampled.
        mode: `vllm_importance_sampling_mode` of the run.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    prompts = policy.prompt_ids(conversations)
    if policy.has_adapter:
        engine.take_adapter(policy.model)
    options = {"max_tokens": min(SAMPLED, length), "temperature": 1.0, "seeds": prompt_seeds(0, len(prompts))}
    ids, logps = engine.generate(prompts, list(images), **options)
    inputs, ids_NT, mask_NT = completions_as_inputs(policy, conversations, images, ids)
    sampled_NT = pad_sequence([torch.tensor(values, dtype=torch.float64) for values in logps], batch_first=True)
    trainer_NT, _ = log_probs_and_entropies(policy, inputs, ids_NT)
    return parity_report(sampled_NT, trainer_NT.cpu(), mask_NT.cpu(), length=length, mode=mode)
