"""Milliseconds a token of vLLM in the training process, by way of starting it and of handing the adapter over.

usage: python bench_decode.py --model DIR [--variants merged inductor lora] [--completions 4] [--tokens 256]

merged: as this project does. inductor: with vLLM's compilation instead of graphs of whole decode steps alone. lora:
with LoRA kernels instead of merged weights, as for a quantised base. Each variant starts an engine of its own in one
process, so each takes `--utilization` of the GPU. The gap between vLLM's and the trainer's log-probs is told for an
adapter that has learnt something.
"""

from __future__ import annotations

import argparse
import time

from bench_gpu_step import dataset, log

LEARNT = 5e-3  # spread of the adapter's B matrices


def engine_of(variant: str, policy, params, completions: int):
    from nbhelpers.policy.vllm import setup
    from nbhelpers.policy.vllm.engine import start_engine

    changes = {
        "merged": {},
        "inductor": {"compilation_config": {"cudagraph_capture_sizes": setup.capture_sizes(completions)}},
        "lora": {"enable_lora": True, "max_loras": 1, "max_cpu_loras": 1, "max_lora_rank": 16},
    }
    policy.engine = None
    return start_engine(policy, params, completions=completions, **changes[variant])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument(
        "--variants", nargs="+", default=["merged", "inductor", "lora"], choices=["merged", "inductor", "lora"]
    )
    parser.add_argument("--completions", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--utilization", type=float, default=0.15)
    args = parser.parse_args()

    from nbhelpers.policy.vllm import parity, setup

    setup.prepare_environment()
    import torch

    from nbhelpers.params.sections import LoraParams, ModelParams
    from nbhelpers.policy.loading import load_policy

    params = ModelParams(
        name=args.model,
        backend="transformers",
        load_in_4bit=False,
        max_seq_length=2048,
        gpu_memory_utilization=args.utilization,
    )
    policy = load_policy(params, LoraParams())
    torch.manual_seed(0)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=LEARNT)
    rows = dataset(argparse.Namespace(prompts=4, steps=1))
    conversations, images = list(rows["prompt"]), list(rows["image"])
    prompts = policy.prompt_ids(conversations)

    for variant in args.variants:
        start = time.perf_counter()
        engine = engine_of(variant, policy, params, args.completions)
        log(f"{variant}: ready in {time.perf_counter() - start:.1f} s")
        seconds = []
        for prompt, image in zip(prompts, images, strict=True):
            torch.cuda.synchronize()
            start = time.perf_counter()
            engine.generate(
                [prompt], [image], n=args.completions, max_tokens=args.tokens, ignore_eos=True, temperature=1.0
            )
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        log(f"{variant}: {min(seconds) / args.tokens * 1000:.2f} ms a token (best of {len(seconds)})")
        log(f"{variant}: {parity.check_parity(policy, engine, conversations, images, max_new_tokens=64)}")


if __name__ == "__main__":
    main()
