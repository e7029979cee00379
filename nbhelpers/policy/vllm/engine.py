"""vLLM beside the policy in one process: starting it, and sampling with the adapter as it is now."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nbhelpers.params import ModelParams, TrainingParams
from nbhelpers.policy.memory import completions_at_once, give_vllm_its_share, this_gpu
from nbhelpers.policy.mends import end_of_turn_ids, never_sampled_ids
from nbhelpers.policy.policy import Completion, Policy, weights_source
from nbhelpers.policy.unsloth import SharedAdapter, engine_beside
from nbhelpers.policy.vllm.drawn import listening
from nbhelpers.policy.vllm.hand_over import MergedAdapter, adapter_is_off, vllm_rank
from nbhelpers.policy.vllm.inside import (
    LoraAdapter,
    mend,
    quick_start,
    runner_of,
    tells_what_is_drawn,
    weights_from,
)
from nbhelpers.policy.vllm.served import ServedEngine, served_engine, url_of_server
from nbhelpers.policy.vllm.setup import WITHOUT_VLLM, GenerationError, compilation, free_port, prepare_environment
from nbhelpers.runs import gpu_processes, stage

PATIENCE = (5.0, 10.0)  # seconds before another attempt to start

SERVED_COMPLETIONS = 256  # that a server generates at once, for all processes


@dataclass
class Engine:
    """A vLLM engine beside the policy in one process.

    Attributes:
        llm: `vllm.LLM`.
        hand_over: gives the policy's adapter to vLLM.
        stop_ids, banned_ids: tokens that end a completion, and that none may hold.
        request: names the adapter to vLLM where it runs beside the base weights; None for the base model or merged
            weights.
        listens: whether log-probs come from `drawn.listening` instead of from vLLM's answers.
        version: counts the changes of the adapter. Keys and values that were computed with an earlier one are never
            used again, and need not be looked for either: vLLM keeps them apart by a prompt's `cache_salt`.
    """

    llm: Any
    hand_over: MergedAdapter | LoraAdapter | SharedAdapter
    stop_ids: list[int]
    banned_ids: list[int] = field(default_factory=list)
    request: Any = None
    version: int = 0
    listens: bool = False

    def take_adapter(self, model: Any) -> None:
        """Generate with the adapter's present values from now on."""
        self.request = self.hand_over.take(model)
        self.version += 1

    def drop_adapter(self) -> None:
        """Generate with the base model from now on."""
        self.request = self.hand_over.drop()
        self.version += 1

    def generate(
        self, prompts: Sequence[list[int]], images: Sequence[Any] | None, *, n: int = 1,
        seeds: Sequence[int] | None = None, **sampling: Any,
    ) -> tuple[list[list[int]], list[list[float]]]:  # fmt: skip
        """Complete each prompt `n` times.

        Args:
            prompts: token ids, the picture's placeholder expanded.
            images: a picture (PIL) per prompt, or None.
            seeds: of the sampling, one per prompt, see `prompt_seeds`; None takes vLLM's own generator.
            sampling: fields of `vllm.SamplingParams`.

        Returns:
            Token ids of len(prompts) * n completions, in order, and the log-prob of each token under the sampling
            distribution.
        """
        from vllm import SamplingParams

        bias = {token: -100.0 for token in self.banned_ids} or None
        options = {"detokenize": False, "stop_token_ids": self.stop_ids, "logit_bias": bias, **sampling}
        options["logprobs"] = None if self.listens else 0
        seeds = seeds or [options.pop("seed", None)] * len(prompts)
        given = [SamplingParams(n=n, seed=seed, **options) for seed in seeds]
        rows = [{"prompt_token_ids": list(ids), "cache_salt": str(self.version)} for ids in prompts]
        for row, image in zip(rows, images or [], strict=bool(images)):
            if image is not None:
                row["multi_modal_data"] = {"image": image}
        with listening() if self.listens else contextlib.nullcontext() as drawn:
            outputs = self.llm.generate(rows, given, use_tqdm=False, lora_request=self.request)
        for asked, output in zip(prompts, outputs, strict=True):
            if list(asked) != list(output.prompt_token_ids):
                raise GenerationError(
                    f"vLLM read a prompt of {len(asked)} tokens as {len(output.prompt_token_ids)} others, so that it "
                    f"would answer another question than the trainer learns from. {WITHOUT_VLLM}"
                )
        completions = [completion for output in outputs for completion in output.outputs]
        ids = [list(completion.token_ids) for completion in completions]
        if drawn:
            return ids, drawn.log_probs(outputs)
        logps = [
            [place[token].logprob for place, token in zip(completion.logprobs, tokens, strict=True)]
            for completion, tokens in zip(completions, ids, strict=True)
        ]
        return ids, logps


def start_engine(
    policy: Policy, params: ModelParams, training: TrainingParams | None = None, *, completions: int | None = None,
    **changes: Any,
) -> Engine | ServedEngine:  # fmt: skip
    """Start vLLM for the policy (a minute for Gemma-3 4B), or take the engine that runs already, and let
    `policy.sample` use it. With `model.vllm_server` that is a server.

    Args:
        training: what will be trained beside it, for `gpu_memory_utilization: auto`.
        completions: most completions generated at once; with more of them the rest waits. None: 64 beside training,
            256 without.
        changes: arguments of `vllm.LLM` in place of those of `engine_arguments`.

    Raises:
        GenerationError: vLLM is not installed, or does not fit the GPU's memory.
    """
    if policy.engine is None:
        completions = completions or completions_at_once(training, policy.backend)
        with stage("starting vLLM"):
            start = _connect if params.served else _start_engine
            policy.engine = start(policy, params, training, completions, changes)
            policy.sampler = functools.partial(sample_with_engine, policy, policy.engine)
    return policy.engine


def _start_engine(policy: Policy, params: ModelParams, training: Any, completions: int, changes: dict) -> Engine:
    if policy.backend == "unsloth":
        llm, hand_over = engine_beside(policy.model), SharedAdapter()
    else:
        rank = _largest_rank(policy)
        model, options = params.model_copy(update={"name": policy.source}), {"completions": completions}
        params = give_vllm_its_share(model, rank, training, "transformers", this_gpu(), loaded=True, **options)
        llm, hand_over = _start_beside(policy, params, completions, changes)
    stop_ids = end_of_turn_ids(policy.processor, policy.model)
    listens = policy.backend != "unsloth" and tells_what_is_drawn(llm)
    engine = Engine(llm, hand_over, stop_ids, never_sampled_ids(policy.processor), listens=listens)
    # The first picture makes vLLM build one processor more.
    with quick_start(llm.model_config.model, policy.processor.tokenizer):
        sample_first_token(policy, engine)
    if policy.has_adapter:
        engine.take_adapter(policy.model)
    return engine


def _largest_rank(policy: Policy) -> int:
    """Of the adapters that vLLM has to hold: the policy's own, or that of the presets."""
    return policy.model.peft_config["default"].r if policy.has_adapter else 16


def _connect(policy: Policy, params: ModelParams, *_: Any) -> ServedEngine:
    """The server that `model.vllm_server` names, started now where it is `auto` and none runs yet."""
    url = params.vllm_server
    if params.starts_server:
        url = serve(params.model_copy(update={"name": policy.source}), _largest_rank(policy))
    stop_ids, image_id = end_of_turn_ids(policy.processor, policy.model), policy.processor.tokenizer.image_token_id
    return served_engine(url, stop_ids, never_sampled_ids(policy.processor), image_id)


def serve(params: ModelParams, lora_rank: int) -> str:
    """Serve the base weights by a vLLM on this machine's last GPU, where no process of this run does already.

    Args:
        lora_rank: of the largest adapter that it will be given.

    Returns:
        Its address, which processes that are started later find by themselves.

    Raises:
        GenerationError: there is one GPU only, or the server did not start.
    """
    gpu = _gpu_of_its_own()
    share = 0.9 if params.gpu_memory_utilization == "auto" else params.gpu_memory_utilization
    room = params.model_copy(update={"gpu_memory_utilization": share})
    source = weights_source(params.name)
    arguments = engine_arguments(source, room, completions=SERVED_COMPLETIONS, lora_rank=lora_rank)
    del arguments["distributed_executor_backend"]
    with stage("starting the vLLM server"):
        return url_of_server(source, arguments | {"max_cpu_loras": 2}, gpu)


def _gpu_of_its_own() -> str:
    """The last of several GPUs, as CUDA_VISIBLE_DEVICES names it."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    gpus = visible.split(",")
    if len(gpus) < 2:
        raise GenerationError(
            f"model.vllm_server=auto takes a GPU of its own, and there is {'one' if visible else 'none'} here. Leave "
            "it out, so that vLLM runs beside the policy, or name the address of a server."
        )
    return gpus[-1]


def _start_beside(policy: Policy, params: ModelParams, completions: int, changes: dict) -> tuple[Any, Any]:
    """`vllm.LLM` with its own copy of the base weights, and the way to hand the adapter to it.

    Args:
        params: from `give_vllm_its_share`; `load_in_4bit` says whether vLLM's copy is.
    """
    import torch

    prepare_environment()
    try:
        from vllm import LLM

        mend()
    except ImportError as error:
        raise GenerationError(
            f"model.fast_inference=true needs vLLM ({error}): pip install 'nbhelpers[gpu]', or set "
            "model.fast_inference=false."
        ) from error
    _rendezvous()
    quantised = policy.has_adapter and params.load_in_4bit
    half = policy.model.dtype if policy.model.dtype != torch.float32 else torch.bfloat16
    arguments = engine_arguments(
        policy.source,
        params,
        completions=completions,
        lora_rank=policy.model.peft_config["default"].r if quantised else None,
        dtype=str(half).removeprefix("torch."),
    )
    arguments["seed"] = int(os.environ["RANK"])
    with contextlib.ExitStack() as inside:
        inside.enter_context(quick_start(policy.source, policy.processor.tokenizer))
        if not params.load_in_4bit:
            # What the folder says about a quantisation is how the policy was read, not how vLLM gets it.
            arguments["load_format"] = inside.enter_context(weights_from(policy.model))
            arguments["hf_overrides"] = {"quantization_config": None}
        llm = _start(LLM, arguments | changes)
    runner = runner_of(llm)
    return llm, LoraAdapter(runner) if runner.lora_config else MergedAdapter(runner.get_model())


def engine_arguments(
    source: str, params: ModelParams, *, completions: int, lora_rank: int | None, dtype: str = "bfloat16"
) -> dict[str, Any]:
    """Arguments of `vllm.LLM` for one policy in the training process.

    Args:
        source: folder or hub id of the base weights.
        completions: most completions generated at once.
        lora_rank: rank of the adapter; None for an engine without one.
    """
    arguments: dict[str, Any] = {
        "model": source,
        "revision": params.revision,
        "dtype": dtype,
        "quantization": "bitsandbytes" if params.load_in_4bit else None,
        "gpu_memory_utilization": params.gpu_memory_utilization,
        "max_model_len": params.max_seq_length,
        "max_num_seqs": completions,
        # vLLM's memory profile runs one batch of this size; TRL's own choice (vllm_generation.py).
        "max_num_batched_tokens": max(4096, params.max_seq_length),
        "limit_mm_per_prompt": {"image": 1},
        "logprobs_mode": "processed_logprobs",
        "distributed_executor_backend": "external_launcher",
        "compilation_config": compilation(completions),
        # One kind of KV cache for Gemma-3's sliding and full layers. vLLM's seven groups save memory in long contexts
        # and are looked after one by one, on the CPU, for every token.
        "disable_hybrid_kv_cache_manager": True,
    }
    if lora_rank is not None:
        arguments |= {"enable_lora": True, "max_loras": 1, "max_cpu_loras": 1, "max_lora_rank": vllm_rank(lora_rank)}
    return arguments


def _start(llm_class: Any, arguments: dict[str, Any]) -> Any:
    """`LLM(**arguments)`; where the GPU's memory does not suffice, a sentence on what to set.

    vLLM 0.26 gives up where the card gets emptier while it measures, as when another process ends: then it is tried
    again.
    """
    for wait in (*PATIENCE, None):
        try:
            return llm_class(**arguments)
        except AssertionError as error:
            if "memory profiling" not in str(error):
                raise
            if wait is None:
                raise GenerationError(
                    "vLLM could not start: other processes gave memory back each time that it measured what is free. "
                    f"On the card: {', '.join(gpu_processes()) or 'none that can be named'}. Run this again once they "
                    "have ended."
                ) from error
        except (ValueError, RuntimeError) as error:  # torch.cuda.OutOfMemoryError is a RuntimeError
            if "memory" not in str(error).lower():
                raise
            raise GenerationError(_too_little(error, arguments["gpu_memory_utilization"])) from error
        print("Another process gave GPU memory back while vLLM measured it; vLLM starts again.", flush=True)
        time.sleep(wait)
        gc.collect()  # what the first attempt held


def _too_little(error: Exception, share: float) -> str:
    return (
        f"vLLM could not start with model.gpu_memory_utilization={share} ({str(error).splitlines()[0]}). Where "
        f"other work holds the GPU, lower it (--set model.gpu_memory_utilization={round(share * 0.7, 2)}); where "
        "the completions do not fit, raise it, or lower model.max_seq_length. `nbhelpers doctor` estimates what a "
        "preset needs."
    )


def _rendezvous() -> None:
    """vLLM's process group of one, at a free port, where no launcher has set one."""
    alone = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    for variable, value in alone.items():
        os.environ.setdefault(variable, value)


def sample_first_token(policy: Policy, engine: Engine) -> None:
    """One token on a blank picture."""
    from PIL import Image

    prompts = policy.prompt_ids([[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]])
    engine.generate(prompts, [Image.new("RGB", (64, 64))], max_tokens=1)


def sample_with_vllm(policy: Policy, params: ModelParams, training: TrainingParams | None = None) -> None:
    """Let `policy.sample` generate with vLLM, which starts when it is first asked."""

    def start_and_sample(*args: Any, **options: Any) -> list[list[Completion]]:
        start_engine(policy, params, training)
        return policy.sampler(*args, **options)

    policy.sampler = start_and_sample


def prompt_seeds(seed: int, prompts: int) -> list[int]:
    """A seed for each prompt. vLLM draws a request's numbers from its seed alone: with one seed for all, every prompt
    would meet the same luck, and their rates would spread more than the intervals allow for.
    """
    import numpy as np

    return np.random.SeedSequence(seed).generate_state(prompts).tolist()


def sample_with_engine(
    policy: Policy, engine: Engine, conversations, images, *, samples_per_problem, max_new_tokens, batch_size, progress,
    seed, first=0, **sampling,
) -> list[list[Completion]]:  # fmt: skip
    """`Policy.sample` with vLLM: the adapter as it is now, or the base model inside `policy.without_adapter()`."""
    if policy.has_adapter and not adapter_is_off(policy.model):
        engine.take_adapter(policy.model)
    else:
        engine.drop_adapter()
    prompts = policy.prompt_ids(conversations)
    seeds = prompt_seeds(seed, first + len(prompts))[first:]
    batch_size = batch_size or 256
    completions: list[list[Completion]] = []
    for start in range(0, len(prompts), batch_size):
        end = start + batch_size
        options = {"n": samples_per_problem, "max_tokens": max_new_tokens, "seeds": seeds[start:end], **sampling}
        ids, _ = engine.generate(prompts[start:end], images[start:end], **options)
        groups = policy.completions(ids, engine.stop_ids, samples_per_problem)
        completions += groups
        if progress:
            progress(len(groups))
    return completions
