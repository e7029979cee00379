"""Milliseconds a token of vLLM in the training process, by way of starting it, sampling and handing the adapter over.

usage: python bench_decode.py --model DIR [--engines merged sync ...] [--prompts 8] [--group 8] [--load-in-4bit]

The engines are `ENGINES` below, the ways to sample `SAMPLING`; those are tried on the first engine alone. A token's
time is that of 256 tokens less that of 32, for all completions at once and for a single group, so that the prompts are
left out. The engines stand side by side, with `--gib` each; what no longer fits says so and is left out. The gap
between vLLM's and the trainer's log-probs is told for an adapter that has learnt something. `--profile` adds where a
decode step's time is. Lines of JSON as they come.

On one NVIDIA H200 (2026-12-01, vllm 0.26.0, the 4B shape, merged weights, before log-probs stayed on the GPU), 8 groups
of 8, tokens 32 to 256: 5.5 ms a token as in training, 4.9 without log-probs; a single group of 8 4.0 ms, 3.8 with the
log-probs by one log-softmax. Two tries of the same differ by up to 0.6 ms at 64 rows, where the CPU takes as long as
the GPU, and by 0.1 at 8. Attention over a row's keys in parts at every batch size (vLLM splits them up to 32 rows
only, MIN_LAUNCH_GRID_SIZE_2D in `attention/backends/triton_attn.py`) brought nothing: 6.6 ms. FlashAttention 4 (`fa4`)
did not start, for want of a module `cutlass`. The second model runner serves, and draws in one kernel by seed and
position.

Of 512 tokens at 64 rows (2.8 s of kernels in a step of 7.1 s): attention 1.0 s, matrix products 1.2, norms 0.19,
vLLM's kernel for log-probs 0.11 and for ranks that nobody asks for 0.02, drawing 0.06, all else 0.2.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time

from bench_gpu_step import dataset, log

LEARNT = 5e-3  # spread of the adapter's B matrices
LORA = {"enable_lora": True, "max_loras": 1, "max_cpu_loras": 1, "max_lora_rank": 16}
FROM_FILE = {"load_format": "auto"}
ENGINES = {
    "merged": {},  # as this project starts it
    "fa4": {"attention_config": {"backend": "FLASH_ATTN", "flash_attn_version": 4}},
    "sync": {"async_scheduling": False},
    "inductor": None,  # vLLM's own compilation, with its graphs in pieces as well
    "lora": LORA,  # LoRA kernels instead of merged weights
    "lora-specialised": LORA | {"specialize_active_lora": True},
    "fp8": LORA | FROM_FILE | {"quantization": "fp8"},
    "fp8-keys": {"kv_cache_dtype": "fp8"},
    "bitsandbytes": LORA | FROM_FILE | {"quantization": "bitsandbytes", "hf_overrides": {}},
}
SAMPLING = {
    "as in training": {},
    "log-probs in vLLM's answers": {"logprobs": 0},
    "log-probs in vLLM's answers, flat": {"logprobs": 0, "flat_logprobs": True},
    "without log-probs": {"log_probs": False},
    "without the bias": {"logit_bias": None},
    "a seed per request": {"seed": 1},
    "greedy": {"temperature": 0.0},
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--engines", nargs="+", default=["merged", "inductor", "lora"], choices=ENGINES)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--gib", type=float, default=17.0, help="of the GPU for each engine")
    parser.add_argument("--load-in-4bit", action="store_true")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    args.steps = 1
    return args


def generate(engine, rows, args, tokens: int, **changes) -> float:
    """Seconds for `tokens` tokens of each completion."""
    import torch
    from vllm import SamplingParams

    from nbhelpers.policy.vllm.drawn import listening

    bias = {token: -100.0 for token in engine.banned_ids}
    options = {"temperature": 1.0, "detokenize": False, "logit_bias": bias, **changes}
    told = options.pop("log_probs", "logprobs" not in options)  # as `Engine.generate` gets them
    options |= {"logprobs": 0} if told and not engine.listens else {}
    greedy = options["temperature"] == 0
    if greedy:  # a group of one each, as many
        rows = [row for row in rows for _ in range(args.group)]
    sampling = SamplingParams(n=1 if greedy else args.group, max_tokens=tokens, ignore_eos=True, **options)
    engine.version += 1
    rows = [row | {"cache_salt": str(engine.version)} for row in rows]
    torch.cuda.synchronize()
    start = time.perf_counter()
    with listening() if told and engine.listens else contextlib.nullcontext() as drawn:
        outputs = engine.llm.generate(rows, sampling, use_tqdm=False, lora_request=engine.request)
    if drawn:
        drawn.log_probs(outputs)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def milliseconds(engine, rows, args, **changes) -> float:
    """A token, best of two."""
    differences = [
        generate(engine, rows, args, args.tokens, **changes) - generate(engine, rows, args, 32, **changes)
        for _ in range(2)
    ]
    return 1000 * min(differences) / (args.tokens - 32)


def profile(engine, rows, args) -> None:
    """The kernels of 32 tokens, and how long the GPU waited."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    with profiler(activities=[ProfilerActivity.CUDA]) as found:
        seconds = generate(engine, rows, args, 32)
    events = sorted(found.key_averages(), key=lambda event: -event.self_device_time_total)
    busy = sum(event.self_device_time_total for event in events) / 1e6
    named = {event.key[:110]: [round(event.self_device_time_total / 1000, 1), event.count] for event in events[:16]}
    told = {"profile": "32 tokens and the prompts", "seconds": round(seconds, 3), "gpu_busy_s": round(busy, 3)}
    log(json.dumps(told | {"ms_and_calls": named}))


def kernels_of(engine) -> dict:
    """Which of vLLM's model runners and attentions serve."""
    from nbhelpers.policy.vllm.inside import runner_of

    runner = runner_of(engine.llm)
    groups = [group for groups in runner.attn_groups for group in groups]
    return {"runner": type(runner).__module__, "attention": sorted({group.backend.get_name() for group in groups})}


def main() -> None:
    args = arguments()
    from nbhelpers.policy.vllm import parity, setup

    setup.prepare_environment()
    import torch

    from nbhelpers.params.sections import LoraParams, ModelParams, TrainingParams
    from nbhelpers.policy.loading import load_policy
    from nbhelpers.policy.vllm.engine import start_engine

    params = ModelParams(
        name=args.model, backend="transformers", load_in_4bit=args.load_in_4bit, max_seq_length=2048,
        gpu_memory_utilization=round(args.gib * 2**30 / torch.cuda.mem_get_info()[1], 3),
    )  # fmt: skip
    policy = load_policy(params, LoraParams())
    log("policy loaded")
    torch.manual_seed(0)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=LEARNT)
    data = dataset(args)
    conversations, images = list(data["prompt"]), list(data["image"])
    ids = policy.prompt_ids(conversations)
    rows = [
        {"prompt_token_ids": one, "multi_modal_data": {"image": image}} for one, image in zip(ids, images, strict=True)
    ]
    import vllm  # noqa: F401

    log("vLLM imported")
    completions = args.prompts * args.group
    for place, name in enumerate(args.engines):
        try:
            start = time.perf_counter()
            changes = ENGINES[name]
            if changes is None:
                changes = {"compilation_config": {"cudagraph_capture_sizes": setup.capture_sizes(completions)}}
            policy.engine = None
            engine = start_engine(policy, params, TrainingParams(), completions=completions, **changes)
            result = {"engine": name, "ready_s": round(time.perf_counter() - start, 1), "completions": completions}
            result |= kernels_of(engine)
            generate(engine, rows, args, 8)
            tried = SAMPLING if place == 0 else {"as in training": {}}
            result["ms"] = {way: round(milliseconds(engine, rows, args, **given), 2) for way, given in tried.items()}
            result["ms_one_group"] = round(milliseconds(engine, rows[:1], args), 2)
            report = parity.check_parity(policy, engine, conversations[:8], images[:8])
            result |= {"gap": round(report.mean, 5), "kl": report.kl, "weight": round(report.weight, 4)}
            log(json.dumps(result))
            if args.profile and place == 0:
                profile(engine, rows, args)
                profile(engine, rows[:1], args)
        except Exception as error:  # the others are still worth their time
            log(json.dumps({"engine": name, "failed": f"{type(error).__name__}: {str(error)[:500]}"}))


if __name__ == "__main__":
    main()
