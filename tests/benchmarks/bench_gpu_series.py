"""The notebooks of a preset on one GPU, as a person runs them: seconds by notebook, stage and cell, what vLLM logs on
its start, peak memory beside the estimate, and optionally with most of the card held by another process.

usage: python bench_gpu_series.py --backend {auto,transformers,unsloth} [--preset gemma3_smoke] [--free 24]
           [--notebooks 3] [--out DIR] [--set SECTION.KEY=VALUE ...]

`--free` leaves so many GiB: a second process holds the rest. Each notebook gives a line of JSON when it ends, and the
last line is all of it. Caches are as they are: set NBHELPERS_CACHE to an empty folder for a cold start, and run the
same line again for a warm one; `gpu_round.py` does both.
"""

# One NVIDIA H200 (README, "On a GPU"), 2026-11-24. `gemma3_smoke`'s settings, 4 bit, true shape:
#
#   backend                                           gpu_memory_utilization (the knob)      peak      seconds a step
#   transformers, use_gradient_checkpointing: true    0.06 of 140 GiB                        15.1 GB   7.7
#   unsloth                                           0.1 of 140 GiB, weights included       19.4 GB   8
#
# Unsloth's policy and vLLM are ready after 80 to 87 s, its first step takes 57 s more. It compiles its loss in that
# step, and did again in the fourth (51 s instead of 8), for completions of another length. Running its loss uncompiled
# (TORCHDYNAMO_DISABLE=1) spares that and takes 40 GiB and 11.6 s per step instead.
#
# The embedded model of then, 60 steps of 24 x 4, mean reward of the first and the last five steps: transformers and
# vLLM 2.12 to 2.92 of 4 (0.9 s per step beside four other processes; 2026-11-23), Unsloth and vLLM 2.11 to 2.91 (1.5 s
# beside one). With vLLM and the adapter the first one solves 51.6 % of 512 unseen problems before and 61.9 % after,
# with transformers 51.6 % and 61.5 %. The second one's final_model/, loaded by Unsloth's
# FastVisionModel.from_pretrained, solves 40 of 64, and 41 loaded by this project with vLLM.
#
# The present one (one NVIDIA H100, nine runs at once, seeds 42 to 44; transformers and vLLM): greedy accuracy on 512
# unseen problems 40.2 % before; after 87.9, 87.9 and 88.3 % with a group's loss from one row, 87.7, 87.3 and 88.3 %
# without, 87.9, 87.3 and 88.1 % with TRL's sequence_mask in place of token_truncate. vLLM and the trainer ended 0.0004
# to 0.0009 nats per token apart.

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

from nbhelpers.params import RunParams, parse_overrides
from nbhelpers.policy import memory_estimate
from nbhelpers.policy.loading import choose_backend
from nbhelpers.runs import RunDirectory, find_gpus

HOLD = """
import sys, time, torch
free, total = torch.cuda.mem_get_info()
held = torch.empty(max(0, int(free - float(sys.argv[1]) * 2**30)), dtype=torch.uint8, device="cuda")
print("held", flush=True)
sys.stdin.read()
"""
# What vLLM and Unsloth say about their start, with seconds or GiB in it.
TOLD = re.compile(r"(took|finished in|in total|seconds|GiB|KV cache|Capturing|Compil|Unsloth:)", re.I)
STAGE = re.compile(r"^ *(?P<name>[a-z][^:\u2026]*): (?P<seconds>\d+) s *$")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["auto", "transformers", "unsloth"], default="auto")
    parser.add_argument("--preset", default="gemma3_smoke")
    parser.add_argument("--free", type=float, help="GiB to leave free")
    parser.add_argument("--notebooks", default="1-4")
    parser.add_argument("--out", default="/tmp/bench_series")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    return parser.parse_args()


def used_gib() -> float:
    """0 without a GPU, where the embedded model runs all the same."""
    gpus = find_gpus()
    return gpus[0].total - gpus[0].free if gpus else 0.0


def slow_cells(run: RunDirectory) -> dict[str, dict[str, float]]:
    """By notebook, its cells that took more than a second: their first line and seconds, as papermill noted them."""
    found: dict[str, dict[str, float]] = {}
    for path in sorted(run.notebooks_dir.glob("*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            seconds = cell["metadata"].get("papermill", {}).get("duration") or 0
            if cell["cell_type"] == "code" and seconds > 1:
                source = "".join(cell["source"]).strip().splitlines()
                first = next((line for line in source if line and not line.startswith(("import", "from"))), source[0])
                found.setdefault(path.stem, {})[first[:60]] = round(seconds, 1)
    return found


def told(run: RunDirectory) -> list[str]:
    """The lines of `libraries.log` with a time or a size in them."""
    log = run.path / "libraries.log"
    lines = log.read_text(errors="replace").replace("\r", "\n").splitlines() if log.exists() else []
    return [line[:220] for line in lines if TOLD.search(line) and "it/s" not in line]


def run_series(args, before: float) -> dict:
    """`nbhelpers run` in a process of its own, its stages, and the most that it held of the card."""
    settings = [word for setting in args.overrides for word in ("--set", setting)]
    command = [sys.executable, "-m", "nbhelpers.cli", "run", args.preset, "--notebooks", args.notebooks, "--output-dir",
               args.out, "--set", f"model.backend={args.backend}", *settings]  # fmt: skip
    peak, over = [0.0], threading.Event()

    def watch():
        while not over.wait(0.5):
            peak[0] = max(peak[0], used_gib() - before)

    threading.Thread(target=watch, daemon=True).start()
    run, started, notebooks, stages, name = RunDirectory(args.out), time.perf_counter(), {}, {}, "before"
    surroundings = {"VLLM_LOGGING_LEVEL": "INFO"} | os.environ
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": surroundings}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as `timeout` ends it: with what there is so far
    with contextlib.suppress(KeyboardInterrupt), subprocess.Popen(command, **pipes) as process:
        for line in process.stdout:
            print(f"[{time.perf_counter() - started:6.1f} s] {line}", end="", flush=True)
            if begun := re.match(r"\[\d+/\d+\] (\S+) \.\.\.", line):
                name = begun[1]
            elif done := re.match(r"\[\d+/\d+\] (\S+) done in (\d+) s", line):
                notebooks[done[1]] = int(done[2])
                told_now = {"notebook": done[1], "seconds": int(done[2]), "stages": stages.get(done[1])}
                print(json.dumps(told_now | {"cells": slow_cells(run).get(done[1])}), flush=True)
            elif stage := STAGE.match(line):
                stages.setdefault(name, {})[stage["name"].strip()] = int(stage["seconds"])
    over.set()
    try:
        process.wait(timeout=15)  # for its kernel, which holds the card
    except subprocess.TimeoutExpired:
        process.kill()
    for line in told(run):
        print("  log:", line, flush=True)
    return {"rc": process.returncode, "seconds": round(time.perf_counter() - started, 1), "notebooks": notebooks,
            "stages": stages, "peak_gib": round(peak[0], 2)}  # fmt: skip


def main() -> int:
    args = arguments()
    holder = None
    if args.free:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(args.free)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        holder.stdout.readline()
    try:
        sections = parse_overrides([f"model.backend={args.backend}", *args.overrides])
        params = RunParams.load(args.preset, output_dir=args.out, trust_code=True, **sections)
        backend, why = choose_backend(params.model, params.training)
        gpu = next(iter(find_gpus()), None)
        estimate = memory_estimate(params, gpu, backend) if gpu else None
        result = {"backend": backend, "why": why, "card": gpu and gpu.name, "free_gib": gpu and round(gpu.free, 1)}
        result["estimate_gib"] = estimate and {name: round(part, 2) for name, part in estimate.items()}
        result["estimate_sum_gib"] = estimate and round(sum(estimate.values()), 2)
        result |= run_series(args, used_gib())
        run = RunDirectory(args.out)
        lines, manifest = run.read_jsonl(run.metrics_path), run.read_manifest()
        result["parity"] = manifest.get("parity")
        result["step_s"] = [round(line["step_time"], 2) for line in lines if "step_time" in line]
        result["gap"] = [line.get("sampling/sampling_logp_difference/mean") for line in lines]
        result["cells"] = slow_cells(run)
        result["notices"], result["warnings"] = manifest.get("notices"), manifest.get("warnings")
        print(json.dumps(result), flush=True)
        return result["rc"]
    finally:
        if holder:
            holder.communicate()


if __name__ == "__main__":
    sys.exit(main())
