"""Milliseconds a token of vLLM in the training process, by way of starting it, sampling and handing the adapter over.

usage: python bench_decode.py --model DIR [--engines merged sync ...] [--prompts 8] [--group 8] [--load-in-4bit]

The engines are `ENGINES` below, the ways to sample `SAMPLING`; those are tried on the first engine alone. A token's
time is that of 256 tokens less that of 32, for all completions at once and for a single group, so that the prompts are
left out. Each engine takes `--utilization` of the GPU beside those before it. The gap between vLLM's and the trainer's
log-probs is told for an adapter that has learnt something. `--profile` adds where a decode step's time is.
"""

from __future__ import annotations

import argparse
import json
import time

from bench_gpu_step import dataset, log

LEARNT = 5e-3  # spread of the adapter's B matrices
LORA = {"enable_lora": True, "max_loras": 1, "max_cpu_loras": 1, "max_lora_rank": 16}
FROM_FILE = {"load_format": "auto"}
ENGINES = {
    "merged": {},  # as this project starts it
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
    "without log-probs": {"logprobs": None},
    "without the bias": {"logit_bias": None},
    "a seed per request": {"seed": 1},
    "greedy": {"temperature": 0.0},
    "greedy without log-probs": {"temperature": 0.0, "logprobs": None},
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--engines", nargs="+", default=["merged", "inductor", "lora"], choices=ENGINES)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--utilization", type=float, default=0.22)
    parser.add_argument("--load-in-4bit", action="store_true")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    args.steps = 1
    return args


def generate(engine, rows, args, tokens: int, **changes) -> float:
    """Seconds for `tokens` tokens of each completion."""
    import torch
    from vllm import SamplingParams

    bias = {token: -100.0 for token in engine.banned_ids}
    options = {"temperature": 1.0, "logprobs": 0, "detokenize": False, "logit_bias": bias, **changes}
    greedy = options["temperature"] == 0
    if greedy:  # a group of one each, as many
        rows = [row for row in rows for _ in range(args.group)]
    sampling = SamplingParams(n=1 if greedy else args.group, max_tokens=tokens, ignore_eos=True, **options)
    engine.version += 1
    rows = [row | {"cache_salt": str(engine.version)} for row in rows]
    torch.cuda.synchronize()
    start = time.perf_counter()
    engine.llm.generate(rows, sampling, use_tqdm=False, lora_request=engine.request)
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
    log(f"profile: 32 tokens and the prompts in {seconds:.3f} s, the GPU busy for {busy:.3f} s")
    for event in events[:16]:
        log(f"    {event.self_device_time_total / 1000:8.1f} ms {event.count:6d} x {event.key[:110]}")


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
        gpu_memory_utilization=args.utilization,
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
            generate(engine, rows, args, 8)
            tried = SAMPLING if place == 0 else {"as in training": {}}
            result["ms"] = {way: round(milliseconds(engine, rows, args, **given), 2) for way, given in tried.items()}
            result["ms_one_group"] = round(milliseconds(engine, rows[:1], args), 2)
            report = parity.check_parity(policy, engine, conversations[:8], images[:8])
            result |= {"gap": round(report.mean, 5), "kl": report.kl, "weight": round(report.weight, 4)}
            log(json.dumps(result))
            if args.profile and place == 0:
                profile(engine, rows, args)
        except Exception as error:  # the others are still worth their time
            log(f"{name} failed: {type(error).__name__}: {str(error)[:500]}")


if __name__ == "__main__":
    main()
