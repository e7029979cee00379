"""Completions by vLLM inside the training process, on this project's terms.

What differs from TRL's own colocated vLLM (`trl.generation.vllm_generation`, 1.14.2):

* Only the adapter is handed over (`nbhelpers.hand_over`). TRL merges the adapter and copies all 4.3 billion parameters
  each step, under
  names that vLLM refuses for Gemma-3.
* A group is one request with `n` completions, not `num_generations` requests that repeat the prompt and its picture.
* Nothing is compiled at the start: CUDA graphs for the batch sizes that occur and one kernel a norm decode as fast as
  what Inductor makes,
  and pictures that are expanded to their tokens already are not expanded a second time (`nbhelpers.vllm_setup`).
* The importance weights come out of the loss's own forward, where TRL pays for one forward more.
* Before the first step the log-probs of vLLM and of the trainer are compared (`check_parity`): where they disagree,
  every importance
  weight is 0 and nothing is learnt, without any error.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbhelpers import mends, vllm_setup
from nbhelpers.hand_over import LoraAdapter, MergedAdapter, SharedAdapter, vllm_rank
from nbhelpers.params import ModelParams
from nbhelpers.sampling import Completion, Policy
from nbhelpers.unsloth_backend import logits_returned

PARITY_WARN = 0.05
PARITY_STOP = 0.5


class GenerationError(RuntimeError):
    """vLLM cannot generate for this policy; the message says what to set."""


# Parity
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ParityReport:
    """How far vLLM's log-probs of the sampled tokens lie from the trainer's, in nats.

    `mean` and `max` of the absolute difference over `tokens` tokens. `weight` is the mean importance weight of a
    completion, min(1, exp(sum of differences)): near 0 means that the completions teach nothing.
    """

    mean: float
    max: float
    tokens: int
    weight: float

    @property
    def stops(self) -> bool:
        return not self.mean <= PARITY_STOP

    @property
    def warns(self) -> bool:
        return not self.mean <= PARITY_WARN

    def __str__(self) -> str:
        return (
            f"vLLM and the trainer differ by {self.mean:.4f} nats a token on average and {self.max:.3f} at most "
            f"({self.tokens} tokens; mean importance weight {self.weight:.2f})"
        )


def parity_report(vllm_logps: Any, trainer_logps: Any, mask: Any) -> ParityReport:
    """Compare two tensors (completions, tokens) of log-probs where `mask` is true.

    A token without a finite log-prob on both sides counts as an infinite difference: it is what a broken hand-over
    looks like.
    """
    import torch

    mask = mask.bool()
    difference = (trainer_logps.double() - vllm_logps.double()).masked_fill(~mask, 0.0)
    difference = torch.nan_to_num(difference, nan=float("inf"), posinf=float("inf"), neginf=float("-inf"))
    tokens = int(mask.sum())
    if tokens == 0:
        raise GenerationError("vLLM gave no token to compare: every completion was empty.")
    weights = difference.sum(dim=1).clamp(max=0.0).exp()
    return ParityReport(
        float(difference.abs().sum() / tokens), float(difference.abs().max()), tokens, float(weights.mean())
    )


def judge_parity(report: ParityReport, *, stop: bool = True) -> str | None:
    """None where the two agree, a warning's sentence where they nearly do.

    Raises:
        GenerationError: the mean gap is above `PARITY_STOP` (unless `stop` is false, as for random weights in a
            benchmark).
    """
    if report.stops and stop:
        raise GenerationError(
            f"{report}. Training would go on without an error and learn nothing, since completions with such a gap get an importance "
            "weight of 0. What usually causes it: a vLLM of another version than the tested pins (`nbhelpers doctor` compares them), "
            "weights saved under names that vLLM reads as another model, or a base model that is quantised on one side only "
            "(model.load_in_4bit). model.fast_inference=false trains without vLLM."
        )
    if report.warns:
        return f"{report}. Up to {PARITY_WARN} is rounding; above it the gradient is biased. `nbhelpers doctor` compares versions."
    return None


# The engine
# -----------------------------------------------------------------------------------------------------------------


def engine_arguments(
    source: str,
    *,
    completions: int,
    max_model_len: int,
    gpu_memory_utilization: float,
    lora_rank: int | None,
    dtype: str = "bfloat16",
    quantization: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Arguments of `vllm.LLM` for one policy in the training process.

    Args:
        source: folder or hub id of the base weights.
        completions: most completions generated at once.
        lora_rank: rank of the adapter; None for an engine without one.
    """
    arguments: dict[str, Any] = {
        "model": source,
        "dtype": dtype,
        "quantization": quantization,
        "gpu_memory_utilization": gpu_memory_utilization,
        "max_model_len": max_model_len,
        "max_num_seqs": completions,
        # vLLM's memory profile runs one batch of this size; TRL's own choice (vllm_generation.py).
        "max_num_batched_tokens": max(4096, max_model_len),
        "limit_mm_per_prompt": {"image": 1},
        "logprobs_mode": "processed_logprobs",
        "distributed_executor_backend": "external_launcher",
        "compilation_config": vllm_setup.compilation(completions),
        # One kind of KV cache for Gemma-3's sliding and full layers. vLLM's seven groups save memory in long contexts
        # and are looked after one by one, on the CPU, for every token.
        "disable_hybrid_kv_cache_manager": True,
        "kernel_config": {"enable_flashinfer_autotune": False},  # none of its kernels is used for Gemma-3
        "seed": seed,
    }
    if lora_rank is not None:
        arguments |= {"enable_lora": True, "max_loras": 1, "max_cpu_loras": 1, "max_lora_rank": vllm_rank(lora_rank)}
    return arguments


@dataclass
class Engine:
    """A vLLM engine beside the policy in one process.

    Attributes:
        llm: `vllm.LLM`.
        hand_over: gives the policy's adapter to vLLM.
        stop_ids, banned_ids: tokens that end a completion, and that none may hold.
        request: names the adapter to vLLM where it runs beside the base weights; None for the base model or merged
            weights.
        version: counts the changes of the adapter. Keys and values that were computed with an earlier one are never
            used again, and need
            not be looked for either: vLLM keeps them apart by a prompt's `cache_salt`.
    """

    llm: Any
    hand_over: MergedAdapter | LoraAdapter | SharedAdapter
    stop_ids: list[int]
    banned_ids: list[int] = field(default_factory=list)
    request: Any = None
    version: int = 0

    def take_adapter(self, model: Any) -> None:
        """Generate with the adapter's present values from now on."""
        self.request = self.hand_over.take(model)
        self.version += 1

    def drop_adapter(self) -> None:
        """Generate with the base model from now on."""
        self.request = self.hand_over.drop()
        self.version += 1

    def generate(
        self, prompts: Sequence[list[int]], images: Sequence[Any] | None, *, n: int = 1, **sampling: Any
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Complete each prompt `n` times.

        Args:
            prompts: token ids, the picture's placeholder expanded.
            images: a picture (PIL) a prompt, or None.
            sampling: fields of `vllm.SamplingParams`.

        Returns:
            Token ids of len(prompts) * n completions, in order, and the log-prob of each token under the sampling
            distribution.
        """
        from vllm import SamplingParams

        bias = {token: -100.0 for token in self.banned_ids} or None
        options = {"logprobs": 0, "detokenize": False, "stop_token_ids": self.stop_ids, "logit_bias": bias, **sampling}
        rows = [{"prompt_token_ids": list(ids), "cache_salt": str(self.version)} for ids in prompts]
        for row, image in zip(rows, images or [], strict=bool(images)):
            if image is not None:
                row["multi_modal_data"] = {"image": image}
        outputs = self.llm.generate(rows, SamplingParams(n=n, **options), use_tqdm=False, lora_request=self.request)
        for given, output in zip(prompts, outputs, strict=True):
            if list(given) != list(output.prompt_token_ids):
                raise GenerationError(
                    f"vLLM read a prompt of {len(given)} tokens as {len(output.prompt_token_ids)} others, so that it would answer another "
                    "question than the trainer learns from. `nbhelpers doctor` compares versions; model.fast_inference=false trains "
                    "without vLLM."
                )
        completions = [completion for output in outputs for completion in output.outputs]
        ids = [list(completion.token_ids) for completion in completions]
        logps = [
            [place[token].logprob for place, token in zip(completion.logprobs, tokens, strict=True)]
            for completion, tokens in zip(completions, ids, strict=True)
        ]
        return ids, logps


def unsloth_engine(policy: Policy) -> Engine:
    """The vLLM engine that Unsloth started with the model, as an `Engine`. The weights are shared; the adapter goes
    over as tensors in memory.
    """
    llm = getattr(policy.model, "vllm_engine", None)
    if llm is None:
        raise GenerationError("the policy was loaded without vLLM: load it with model.fast_inference=true.")
    stop_ids = mends.end_of_turn_ids(policy.processor, policy.model)
    return Engine(llm, SharedAdapter(), stop_ids, mends.never_sampled_ids(policy.processor))


def start_engine(policy: Policy, params: ModelParams, *, completions: int = 64, **changes: Any) -> Engine:
    """Start vLLM for the policy (a minute for Gemma-3 4B), or take the engine that runs already, and let
    `policy.sample` use it.

    Args:
        completions: most completions generated at once; with more of them the rest waits.
        changes: arguments of `vllm.LLM` in place of those of `engine_arguments`.

    Raises:
        GenerationError: vLLM is not installed.
    """
    import torch

    if policy.engine is not None:
        return policy.engine
    if policy.backend == "unsloth":
        engine = unsloth_engine(policy)
    else:
        vllm_setup.prepare_environment()
        try:
            from vllm import LLM

            vllm_setup.mend()
        except ImportError as error:
            raise GenerationError(
                f"model.fast_inference=true needs vLLM ({error}): pip install 'nbhelpers[gpu]', or set model.fast_inference=false."
            ) from error
        for variable, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
            os.environ.setdefault(variable, value)
        _rendezvous()
        arguments = (
            engine_arguments(
                policy.source,
                completions=completions,
                max_model_len=params.max_seq_length,
                gpu_memory_utilization=params.gpu_memory_utilization,
                lora_rank=policy.model.peft_config["default"].r if policy.has_adapter and params.load_in_4bit else None,
                dtype=str(policy.model.dtype).removeprefix("torch.")
                if policy.model.dtype != torch.float32
                else "bfloat16",
                quantization="bitsandbytes" if params.load_in_4bit else None,
                seed=int(os.environ["RANK"]),
            )
            | changes
        )
        stop_ids = mends.end_of_turn_ids(policy.processor, policy.model)
        with vllm_setup.quick_start(policy.source, policy.processor.tokenizer):
            llm = _start(LLM, arguments)
        runner = llm.llm_engine.model_executor.driver_worker.model_runner
        hand_over = LoraAdapter(runner) if "enable_lora" in arguments else MergedAdapter(runner.get_model())
        engine = Engine(llm, hand_over, stop_ids, mends.never_sampled_ids(policy.processor))
    # The first picture makes vLLM build one processor more.
    with vllm_setup.quick_start(engine.llm.model_config.model, policy.processor.tokenizer):
        sample_first_token(policy, engine)
    if policy.has_adapter:
        engine.take_adapter(policy.model)
    policy.engine = engine
    policy.sampler = functools.partial(sample_with_engine, policy, engine)
    return engine


def sample_with_vllm(policy: Policy, params: ModelParams) -> None:
    """Let `policy.sample` generate with vLLM, which starts when it is first asked."""

    def start_and_sample(*args: Any, **options: Any) -> list[list[Completion]]:
        start_engine(policy, params)
        return policy.sampler(*args, **options)

    policy.sampler = start_and_sample


def verify(
    policy: Policy, engine: Engine, conversations: Sequence[list[dict]], images: Sequence[Any]
) -> tuple[ParityReport, str | None]:
    """Compare vLLM with the trainer on a few prompts before the first step: the report, which is printed, and a warning
    or None.

    Raises:
        GenerationError: they differ so much that nothing would be learnt.
    """
    report = check_parity(policy, engine, conversations, images)
    print(f"Parity: {report}", flush=True)
    return report, judge_parity(report)


def _start(llm_class: Any, arguments: dict[str, Any]) -> Any:
    """`LLM(**arguments)`; where the GPU's memory does not suffice, a sentence on what to set."""
    import torch

    try:
        return llm_class(**arguments)
    except (ValueError, RuntimeError, torch.cuda.OutOfMemoryError) as error:
        if "memory" not in str(error).lower():
            raise
        share = arguments["gpu_memory_utilization"]
        raise GenerationError(
            f"vLLM could not start with model.gpu_memory_utilization={share} ({str(error).splitlines()[0]}). Where other work holds the "
            f"GPU, lower it (--set model.gpu_memory_utilization={round(share * 0.7, 2)}); where the completions do not fit, raise it, or "
            "lower model.max_seq_length. `nbhelpers doctor` estimates what a preset needs."
        ) from error


def sample_first_token(policy: Policy, engine: Engine) -> None:
    """One token on a blank picture."""
    from PIL import Image

    prompts = policy.prompt_ids([[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]])
    engine.generate(prompts, [Image.new("RGB", (64, 64))], max_tokens=1)


def _rendezvous() -> None:
    """A free port for vLLM's process group of one, where no launcher has set one."""
    import socket

    if "MASTER_PORT" not in os.environ:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            os.environ["MASTER_PORT"] = str(server.getsockname()[1])
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")


def sample_with_engine(
    policy: Policy,
    engine: Engine,
    conversations,
    images,
    *,
    max_new_tokens,
    temperature,
    samples_per_problem,
    seed,
    batch_size,
    progress,
) -> list[list[Completion]]:
    """`Policy.sample` with vLLM: the adapter as it is now, or the base model inside `policy.without_adapter()`."""
    if policy.has_adapter and not _adapter_is_off(policy.model):
        engine.take_adapter(policy.model)
    else:
        engine.drop_adapter()
    prompts = policy.prompt_ids(conversations)
    batch_size = batch_size or 256
    completions: list[list[Completion]] = []
    for start in range(0, len(prompts), batch_size):
        ids, _ = engine.generate(
            prompts[start : start + batch_size],
            images[start : start + batch_size],
            n=samples_per_problem,
            max_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )
        flat = [policy._completion(tokens, engine.stop_ids) for tokens in ids]
        groups = [flat[i : i + samples_per_problem] for i in range(0, len(flat), samples_per_problem)]
        completions += groups
        if progress:
            progress(len(groups))
    return completions


def _adapter_is_off(model: Any) -> bool:
    return any(getattr(module, "_disable_adapters", False) for module in model.modules())


def check_parity(
    policy: Policy, engine: Engine, conversations, images, *, max_new_tokens: int = 32, temperature: float = 1.0
) -> ParityReport:
    """Sample one completion a conversation with vLLM and ask both sides for the log-probs of its tokens."""
    import torch

    processor, model = policy.processor, policy.model
    inputs = processor(
        images=[[image] for image in images],
        text=[policy.prompt_text(conversation) for conversation in conversations],
        padding=True,
        padding_side="left",
        add_special_tokens=False,
        return_tensors="pt",
    )
    prompts = [
        ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]
    if policy.has_adapter:
        engine.take_adapter(model)
    ids, logps = engine.generate(prompts, list(images), max_tokens=max_new_tokens, temperature=temperature, seed=0)
    width = max(len(tokens) for tokens in ids)
    completion = torch.zeros(len(ids), width, dtype=torch.long)
    sampled = torch.zeros(len(ids), width, dtype=torch.float64)
    mask = torch.zeros(len(ids), width, dtype=torch.long)
    for row, (tokens, values) in enumerate(zip(ids, logps, strict=True)):
        completion[row, : len(tokens)] = torch.tensor(tokens)
        sampled[row, : len(tokens)] = torch.tensor(values, dtype=torch.float64)
        mask[row, : len(tokens)] = 1
    batch = dict(inputs)
    batch["input_ids"] = torch.cat([inputs["input_ids"], completion], dim=1)
    batch["attention_mask"] = torch.cat([inputs["attention_mask"], mask], dim=1)
    batch["token_type_ids"] = torch.cat([inputs["token_type_ids"], torch.zeros_like(completion)], dim=1)
    was_training = model.training
    model.eval()
    device = model.device
    with_logits = logits_returned() if policy.backend == "unsloth" else contextlib.nullcontext()
    try:
        with with_logits, torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(**{key: value.to(device) for key, value in batch.items()}, logits_to_keep=width + 1).logits
    finally:
        model.train(was_training)
    trainer = torch.log_softmax(logits[:, -width - 1 : -1].float() / temperature, dim=-1)
    trainer = trainer.gather(-1, completion.to(device).unsqueeze(-1)).squeeze(-1).cpu()
    return parity_report(sampled, trainer, mask)


# TRL
# ------------------------------------------------------------------------------------------------------------------------


@functools.cache
def _generation_class() -> type:
    from trl.generation.vllm_generation import VLLMGeneration

    class AdapterOnlyGeneration(VLLMGeneration):
        """TRL's interface to vLLM over an `Engine` that is already there."""

        engine: Engine

        def _init_vllm(self) -> None:
            self.llm = self.engine.llm

        def sync_weights(self) -> None:
            self.engine.take_adapter(self.accelerator.unwrap_model(self.model))

        def generate(self, prompts, images, num_generations, profiler=None):
            group = num_generations if _repeats(prompts, num_generations) else 1
            pictures = None if images is None else [row[0] if row else None for row in images[::group]]
            with profiler or contextlib.nullcontext():
                ids, logps = self.engine.generate(
                    prompts[::group],
                    pictures,
                    n=group,
                    temperature=self.temperature,
                    top_p=self.top_p,
                    top_k=self.top_k,
                    min_p=self.min_p or 0.0,
                    repetition_penalty=self.repetition_penalty,
                    max_tokens=self.max_completion_length,
                    **self.generation_kwargs,
                )
            return (
                prompts,
                ids,
                [[[value] for value in row] for row in logps],
                [[[token] for token in row] for row in ids],
            )

    return AdapterOnlyGeneration


def _repeats(prompts: Sequence[list[int]], group: int) -> bool:
    """Whether `prompts` are groups of `group` equal prompts in a row, as TRL's sampler lays them out."""
    return len(prompts) % group == 0 and all(
        prompts[start] == prompts[start + place] for start in range(0, len(prompts), group) for place in range(1, group)
    )


@contextlib.contextmanager
def generating_with(engine: Engine) -> Iterator[None]:
    """Inside, a `GRPOTrainer` that is built takes `engine` for its colocated vLLM instead of starting its own."""
    import trl.trainer.grpo_trainer as module

    original = module.VLLMGeneration
    module.VLLMGeneration = type("BoundGeneration", (_generation_class(),), {"engine": engine})
    try:
        yield
    finally:
        module.VLLMGeneration = original


@functools.cache
def weights_from_the_loss(trainer_class: type) -> type:
    """`trainer_class` with the vLLM importance weights computed in the loss's own forward.

    They correct for the difference between vLLM's and the trainer's probabilities. TRL runs the policy once more over
    the whole batch for them; where each batch is used for one update, that forward gives the log-probs that the loss
    computes anyway (`old_per_token_logps` is then `per_token_logps.detach()`, as TRL does itself without vLLM).
    """

    class ImportanceWeightsFromTheLoss(trainer_class):
        @property
        def _one_update_a_batch(self) -> bool:
            generate_every = self.args.steps_per_generation * self.num_iterations
            return self.use_vllm and self.args.gradient_accumulation_steps % generate_every == 0

        def _generate_and_score_completions(self, inputs):
            corrected = self.vllm_importance_sampling_correction
            self.vllm_importance_sampling_correction = corrected and not (
                self.model.training and self._one_update_a_batch
            )
            try:
                return super()._generate_and_score_completions(inputs)
            finally:
                self.vllm_importance_sampling_correction = corrected

        def _compute_loss(self, model, inputs):
            self._loss_inputs = inputs if "importance_sampling_ratio" not in inputs and self.model.training else None
            try:
                return super()._compute_loss(model, inputs)
            finally:
                self._loss_inputs = None

        def _get_per_token_logps_and_entropies(self, model, *args, **kwargs):
            result = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
            inputs = getattr(self, "_loss_inputs", None)
            if inputs is not None and self.use_vllm and self.vllm_importance_sampling_correction:
                mask = inputs["completion_mask"]
                ratio, gaps = importance_weights(
                    result[0].detach(),
                    inputs["sampling_per_token_logps"],
                    mask,
                    mode=self.vllm_importance_sampling_mode,
                    low=self.vllm_importance_sampling_clip_min,
                    high=self.vllm_importance_sampling_clip_max,
                )
                inputs["importance_sampling_ratio"] = ratio
                weights = ratio.flatten() if ratio.shape[1] == 1 else ratio[mask.bool()]
                metrics = self._metrics["train"]
                if gaps.numel():
                    gather = self.accelerator.gather
                    metrics["sampling/sampling_logp_difference/mean"].append(gather(gaps.mean()).mean().item())
                    metrics["sampling/sampling_logp_difference/max"].append(gather(gaps.max()).max().item())
                    metrics["sampling/importance_sampling_ratio/mean"].append(gather(weights.mean()).mean().item())
            return result

    return ImportanceWeightsFromTheLoss


def importance_weights(
    logps: Any, sampling_logps: Any, mask: Any, *, mode: str, low: float | None, high: float | None
) -> tuple[Any, Any]:
    """TRL's correction for sampling with vLLM (`GRPOTrainer._generate_and_score_completions`, 1.14.2).

    Args:
        logps, sampling_logps, mask: (completions, tokens).
        mode: token_truncate, token_mask, sequence_truncate or sequence_mask.

    Returns:
        The weights, (completions, tokens) or (completions, 1), and the absolute log-prob gaps of the tokens under the
        mask.
    """
    import torch

    raw = logps - sampling_logps
    difference = torch.nan_to_num(raw * mask, nan=0.0)
    if mode.startswith("sequence"):
        difference = difference.sum(dim=-1, keepdim=True)
    ratio = torch.exp(difference)
    if mode.endswith("truncate"):
        ratio = torch.clamp(ratio, min=low, max=high) if low is not None or high is not None else ratio
    else:
        outside = torch.zeros_like(ratio, dtype=torch.bool)
        if low is not None:
            outside |= ratio < low
        if high is not None:
            outside |= ratio > high
        ratio = ratio.masked_fill(outside, 0.0)
    gaps = raw.abs()[mask.bool() & ~torch.isnan(raw)]
    return ratio, gaps
