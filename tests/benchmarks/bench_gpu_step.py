"""Seconds a GRPO step of Gemma-3 4B's shape takes on one GPU: this project's path, Unsloth's, and stock TRL with
colocated vLLM.

usage: python bench_gpu_step.py {ours,unsloth,stock} --model DIR [--shapes 1x4x256 8x8x512] [--steps 8] [--idle 0.25]
       [--spread]

A shape is prompts x completions a prompt x tokens. Rewards are injected, because those of random weights would be the
same throughout a group and make every step free: half of a group's completions earn 1, the others -1, and with --idle
that share of the groups (of each group's completions where there are too few groups) has advantages of 0. Completions
have their full length, or with --spread lengths as real runs have them: cut after generation to a log-normal draw
around 0.45 of the limit, so generation itself takes as long as before. Several shapes of one call share the engine,
which is started for the largest batch of this project's and Unsloth's arms and for the first shape's batch of stock
TRL's.

Each arm is one process, because each sets up its own vLLM; run them one after the other on the same machine
(`gpu_round.py` does). Each step says its seconds and stages in JSON, and the last line of a shape all of it. `--ideas`
takes this project's ideas away one at a time, a few steps each, in the same process. After the first step layers are
compiled for each length as it comes, not when it has paid. DIR is Gemma-3 4B or what `make_true_shape.py` writes.
"""

# One NVIDIA H200 (README, "On a GPU"), 1 x 4 x 256; 2026-11-23 but for the first two lines, 2026-11-24:
#
#   idea                                                              with it                             without
#   the adapter merged into vLLM's weights, not LoRA kernels          4.0 ms per token                    5.6 ms
#   graphs of whole decode steps, nothing compiled                    vLLM ready in 15 s, 4.0 ms          31 s, 4.0 ms
#   activations kept where the memory holds them                      1.55 s per step                     1.94 s
#   a picture's features computed once                                1.87 s                              2.17 s
#   a picture prepared once                                           2.17 s                              2.31 s
#   importance weights from the loss's own forward                    2.31 s                              2.42 s
#   one KV cache for all layers, prefixes told apart by a salt        1.07 s to sample and hand over      1.15 s
#   one kernel per norm in the policy (nothing gained at this size)   1.94 s                              1.87 s
#
# The first two lines compare engines in one process (bench_decode.py); the KV line two runs; the others take one idea
# more away each time within one run, before the KV line was there. Three or four steps each, good to about 0.1 s. Of a
# step's 1.39 s, 1.04 s is vLLM.
#
#   one group in training: 8 completions of 512 tokens after a prompt of 450 (NVIDIA H100, 2026-11-24)
#                                                                   forward and backward    beside the weights
#   row by row, all logits at once, as TRL does                     0.66 s                  57.0 GiB
#   log-probs and their gradient a chunk of tokens at a time        0.65 s                  49.0 GiB
#   and the group as one row, its prompt once                       0.51 s                  31.7 GiB
#   and FlexAttention under compiled decoder layers                 0.23 s                  17.6 GiB
#
# All of that together, 8 x 8 x 512 on one NVIDIA H200 (2026-12-01): 7.14 s a step (7.11 to 7.18), in which the GPU
# worked for 4.8 s. On another one 6.41 s (6.20 to 6.45), once the CPU no longer waited in the loss for what the GPU had
# to do before (rows from main memory, pictures looked at before, no look whether the loss is a number), a picture was
# prepared once instead of twice, and log-probs stayed on the GPU until a generation was over. The first update came
# after 105 s with layers compiled in the first step, after 78 s with them compiled later; vLLM took 33 instead of 47 s
# of that, since kernels that nobody asks for were not compiled. 1 x 4 x 256: 1.47 and 1.54 s.
#
# Compiling takes 28 s for a row length and 4.5 s with warm caches, so a length is compiled once the time lost without
# it has come to that. A row of 2,500 tokens keeps 10.6 GiB. Against the first line log-probs differ by 0.004 nats on
# average and the gradient by 2 % in bfloat16; in float32, on a small shape, by 2e-6 nats at most and 2e-6. 4-bit
# weights are not compiled: that was not tried to the end.

from __future__ import annotations

import argparse
import contextlib
import cProfile
import json
import pstats
import statistics
import sys
import time

STARTED = time.perf_counter()
LORA = {"r": 16, "alpha": 16}
# What `--ideas` changes at the last shape, one after the other and for so many steps each.
IDEAS = (
    "without compiled layers", "and row by row, with gradient checkpointing", "and without the vision cache",
    "and without prepared pictures", "and with TRL's extra forward",
)  # fmt: skip
IDEA_STEPS = 3


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arm", choices=["ours", "unsloth", "stock"])
    parser.add_argument("--model", required=True)
    parser.add_argument(
        "--shapes", nargs="+", default=[(1, 4, 256)], type=lambda text: tuple(map(int, text.split("x")))
    )
    parser.add_argument("--micro-batch", type=int, default=8, help="completions in one forward")
    parser.add_argument("--steps", type=int, default=8, dest="first_steps")
    parser.add_argument("--warm-up", type=int, default=3, help="steps left out of the median")
    parser.add_argument("--utilization", type=float, default=0.4)
    parser.add_argument("--load-in-4bit", action="store_true")
    parser.add_argument("--no-checkpointing", action="store_true")
    parser.add_argument("--ideas", action="store_true")
    parser.add_argument("--idle", type=float, default=0.0, help="share of completions with an advantage of 0")
    parser.add_argument("--spread", action="store_true", help="completions of different lengths")
    parser.add_argument("--clocked", type=int, default=2, help="steps more, for the seconds by stage")
    parser.add_argument("--profile", action="store_true", help="where two more steps of each shape spend their time")
    parser.add_argument("--engine", type=json.loads, default={}, help="arguments of vllm.LLM to change, as JSON")
    args = parser.parse_args()
    args.completions = max(prompts * generations for prompts, generations, _ in args.shapes)
    return args


def log(text: str) -> None:
    print(f"[{time.perf_counter() - STARTED:7.1f} s] {text}", flush=True)


def use_shape(args: argparse.Namespace, shape: tuple[int, int, int]) -> None:
    args.prompts, args.generations, args.tokens = shape


def dataset(args: argparse.Namespace):
    """Different pictures of 512 pixels with a question each."""
    from datasets import Dataset

    from nbhelpers.problems.drawn import make_problems

    problems = make_problems(args.prompts * args.steps, seed=1)
    return Dataset.from_dict(
        {
            "prompt": [
                [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image"},
                            {"type": "text", "text": f"{row['question']} Reason step by step."},
                        ],
                    }
                ]
                for row in problems
            ],
            "image": [row["image"].resize((512, 512)) for row in problems],
        }
    )


def rewards_for(args: argparse.Namespace):
    """A reward function with `args.idle` of all advantages at 0."""
    groups, group = args.prompts, args.generations
    idle = round(args.idle * groups) if args.idle * groups % 1 == 0 else 0
    alone = 0 if idle else round(args.idle * group)

    def reward(completions, **_):
        odd = (group - alone) % 2
        live = [0.0] * alone + [2.0, -1.0, -1.0] * odd + [1.0, -1.0] * ((group - alone - 3 * odd) // 2)
        return [0.0 if place // group < idle else live[place % group] for place in range(len(completions))]

    return reward


def cut(generation, args: argparse.Namespace, end: int) -> None:
    """Cut what vLLM generates to lengths as real runs have them."""
    import numpy as np

    generate, random = generation.generate, np.random.default_rng(1)

    def shorter(*given, **named):
        prompts, ids, *told = generate(*given, **named)
        drawn = args.tokens * 0.45 * np.exp(0.6 * random.standard_normal(len(ids)))
        lengths = [int(length) for length in drawn.clip(8, args.tokens)]
        ids = [[*row[: length - 1], end] for row, length in zip(ids, lengths, strict=True)]
        return prompts, ids, *([row[: len(kept)] for row, kept in zip(rows, ids, strict=True)] for rows in told)

    generation.generate = shorter


class Clock:
    """Seconds by name, the GPU's work included; calls inside a timed call count for both.

    Waiting for the GPU takes time of its own, so that a step with the clock `on` takes longer than others.
    """

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.on = False

    def wrap(self, owner, name: str, label: str) -> None:
        import torch

        original = getattr(owner, name)

        def timed(*args, **kwargs):
            if not self.on:
                return original(*args, **kwargs)
            torch.cuda.synchronize()
            start = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                torch.cuda.synchronize()
                self.seconds[label] = self.seconds.get(label, 0.0) + time.perf_counter() - start

        setattr(owner, name, timed)

    def take(self) -> dict[str, float]:
        taken, self.seconds = self.seconds, {}
        return {label: round(value, 3) for label, value in taken.items()}


def config_of(args: argparse.Namespace, **more):
    from trl import GRPOConfig

    completions = args.prompts * args.generations
    micro = min(args.micro_batch, completions)
    return GRPOConfig(
        output_dir="/tmp/bench",
        use_vllm=True,
        vllm_mode="colocate",
        vllm_gpu_memory_utilization=args.utilization,
        vllm_max_model_length=2048,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=completions // micro,
        num_generations=args.generations,
        max_completion_length=args.tokens,
        max_steps=args.steps,
        learning_rate=5e-6,
        beta=0.0,
        loss_type="dr_grpo",
        scale_rewards="none",
        bf16=True,
        gradient_checkpointing=not args.no_checkpointing,
        report_to="none",
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        seed=1,
        generation_kwargs={"logit_bias": {262144: -100.0}} if args.arm != "ours" else None,
        **more,
    )


def load(args: argparse.Namespace):
    from nbhelpers.params.sections import LoraParams, ModelParams
    from nbhelpers.policy.loading import load_policy

    backend = "unsloth" if args.arm == "unsloth" else "transformers"
    model = ModelParams(
        name=args.model,
        backend=backend,
        load_in_4bit=args.load_in_4bit,
        max_seq_length=2048,
        fast_inference=True,
        gpu_memory_utilization=args.utilization,
        use_gradient_checkpointing="unsloth" if backend == "unsloth" else True,
    )
    return load_policy(model, LoraParams(**LORA)), model


def hub_parameter_name(name: str) -> str:
    """transformers' name of a Gemma-3 parameter as vLLM's `load_weights` knows it (trl 1.14.2 + transformers 5.17 +
    vllm 0.26 stop at `vision_tower.embeddings` without it).
    """
    if "vision_tower." in name and "vision_tower.vision_model." not in name:
        return name.replace("vision_tower.", "vision_tower.vision_model.")
    return name


def stock(args):
    """TRL as it comes, with the one change without which it stops at Gemma-3 (transformers 5.17, vLLM 0.26)."""
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import GRPOTrainer
    from trl.generation.vllm_generation import VLLMGeneration

    fix, start = VLLMGeneration._fix_param_name_to_vllm, VLLMGeneration._init_vllm
    VLLMGeneration._fix_param_name_to_vllm = lambda self, name, extra_prefixes=None: hub_parameter_name(
        fix(self, name, extra_prefixes)
    )
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=torch.bfloat16, device_map={"": 0})
    log("model loaded")
    adapter = LoraConfig(
        r=LORA["r"],
        lora_alpha=LORA["alpha"],
        task_type="CAUSAL_LM",
        target_modules=r".*language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
    )
    engines = []

    def start_once(self):
        if engines:
            self.llm, self._llm_weights_sleeping = engines[0], False
        else:
            start(self)
            engines.append(self.llm)

    VLLMGeneration._init_vllm = start_once
    processor = AutoProcessor.from_pretrained(args.model)
    while True:
        trainer = GRPOTrainer(
            model=model,
            processing_class=processor,
            args=config_of(args),
            reward_funcs=rewards_for(args),
            train_dataset=dataset(args),
            peft_config=adapter,
        )
        model, adapter = trainer.model, None
        yield trainer, {}


def ours(args):
    from nbhelpers.policy.vllm import parity, setup
    from nbhelpers.policy.vllm.engine import start_engine
    from nbhelpers.training import inside_trl

    setup.prepare_environment()
    policy, model = load(args)
    log("model loaded")
    engine = start_engine(policy, model, completions=args.completions, **args.engine)
    log("vLLM started")
    from trl import GRPOTrainer

    from nbhelpers.problems.asking import decode_once
    from nbhelpers.training import fused
    from nbhelpers.training.vision_cache import FrozenVisionCache, PreparedPictures

    vision, pictures = FrozenVisionCache(policy.model), PreparedPictures(policy.processor, device="cuda")
    while True:
        longest = keep_activations(args, policy)
        rows = decode_once(dataset(args))
        report = parity.check_parity(policy, engine, rows["prompt"][:4], rows["image"][:4])
        log(f"parity: {report}")
        with inside_trl.generating_with(engine):
            trainer = inside_trl.scoring_in_groups(GRPOTrainer)(
                model=policy.model,
                processing_class=policy.processor,
                args=config_of(args, logging_nan_inf_filter=False),
                reward_funcs=rewards_for(args),
                train_dataset=rows,
            )
        trainer.row_lengths = fused.Lengths(longest) if args.no_checkpointing else None
        changes = changes_for_ideas(policy.model.get_base_model(), trainer, vision, pictures)
        yield trainer, {"parity": [round(report.mean, 5), round(report.max, 4)], "changes": changes, "vision": vision,
                       "after_first": lambda: setattr(fused, "PAYS", 0)}  # fmt: skip


def keep_activations(args, policy) -> int:
    """Recompute activations only where the memory asks for it, as `nbhelpers.training` does. Returns the tokens of the
    longest row.
    """
    import torch

    from nbhelpers.policy.memory import GIB, TextShape, fits, kept_activations

    completions = min(args.micro_batch, args.prompts * args.generations)
    prompts = -(-completions // args.generations)
    tokens = prompts * 400 + completions * args.tokens
    needed = kept_activations(TextShape.of(policy.model.config.text_config.to_dict()), tokens, fused=True)
    free, total = torch.cuda.mem_get_info()
    args.no_checkpointing = fits(needed + GIB, free, total)
    decided = "kept" if args.no_checkpointing else "recomputed"
    log(f"activations would take {needed / GIB:.1f} of {free / GIB:.1f} GiB: {decided}")
    return tokens // prompts


def changes_for_ideas(base, trainer, vision, pictures) -> list:
    """What to call before the steps of each of `IDEAS`."""
    from trl import GRPOTrainer

    from nbhelpers.training import inside_trl

    def uncompiled() -> None:
        trainer.row_lengths = None

    def row_by_row() -> None:
        own = GRPOTrainer._get_per_token_logps_and_entropies
        inside_trl._packed = lambda trainer, model, inputs, *args, **more: own(trainer, model, *args, **more)
        base.enable_input_require_grads()
        base.gradient_checkpointing_enable({"use_reentrant": False})

    def score_again() -> None:
        inside_trl._one_update_a_batch = lambda trainer: False

    return [uncompiled, row_by_row, vision.detach, pictures.detach, score_again]


def unsloth(args):
    from nbhelpers.policy.vllm import parity
    from nbhelpers.policy.vllm.engine import start_engine

    policy, model = load(args)
    log("model and vLLM loaded")
    from trl import GRPOTrainer

    engine = start_engine(policy, model, completions=args.completions)
    while True:
        rows = dataset(args)
        report = parity.check_parity(policy, engine, rows["prompt"][:4], rows["image"][:4])
        log(f"parity: {report}")
        trainer = GRPOTrainer(
            model=policy.model,
            processing_class=policy.processor,
            args=config_of(args),
            reward_funcs=rewards_for(args),
            train_dataset=rows,
        )
        yield trainer, {"parity": [round(report.mean, 5), round(report.max, 4)]}


def shape_of(args: argparse.Namespace) -> str:
    return f"{args.prompts}x{args.generations}x{args.tokens}"


def watch(args, trainer, clock, steps: list[dict], changes: dict) -> None:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_train_begin(self, _, state, control, **kwargs):
            self.last = time.perf_counter()

        def on_step_end(self, _, state, control, **kwargs):
            import torch

            torch.cuda.synchronize()
            now = time.perf_counter()
            steps.append({"seconds": round(now - self.last, 3), **clock.take()})  # fetching the pictures included
            if state.global_step in changes:
                changes[state.global_step]()
            clock.on = 0 <= state.global_step - args.clock_from < args.clocked
            log(json.dumps({"arm": args.arm, "shape": shape_of(args), "step": state.global_step, **steps[-1]}))
            if args.profile:
                self.profile(state.global_step - args.clock_from - args.clocked)
            self.last = time.perf_counter()

        def profile(self, which):
            """After the clocked steps the GPU's kernels are written down for one, Python's calls for another."""
            from torch.profiler import ProfilerActivity, profile

            if which == 0:
                self.kernels = profile(activities=[ProfilerActivity.CUDA])
                self.kernels.start()
            elif which == 1:
                self.kernels.stop()
                print(self.kernels.key_averages().table("self_cuda_time_total", row_limit=45, max_name_column_width=90))
                self.calls = cProfile.Profile()
                self.calls.enable()
            elif which == 2:
                self.calls.disable()
                for order in ("tottime", "cumtime"):
                    pstats.Stats(self.calls).sort_stats(order).print_stats(45)

    trainer.add_callback(Watch())


def main() -> None:
    args = arguments()
    args.steps = args.first_steps
    use_shape(args, args.shapes[0])
    trainers = {"ours": ours, "unsloth": unsloth, "stock": stock}[args.arm](args)
    for shape in args.shapes:
        use_shape(args, shape)
        args.ideas_here = IDEAS if args.ideas and shape == args.shapes[-1] else ()
        args.clock_from = args.first_steps + IDEA_STEPS * len(args.ideas_here)
        args.steps = args.clock_from + args.clocked + 2 * args.profile
        print(json.dumps(measure(args, *next(trainers))), flush=True)


def measure(args, trainer, extra: dict) -> dict:
    """Train `args.steps` steps and say how long they took."""
    import torch

    log("trainer ready")
    clock, steps = Clock(), []
    with contextlib.suppress(AttributeError):
        clock.wrap(trainer.vllm_generation, "sync_weights", "hand_over")
        clock.wrap(trainer.vllm_generation, "generate", "generate")
    clock.wrap(trainer, "_tokenize_prompts", "tokenize")
    clock.wrap(trainer, "_calculate_rewards", "rewards")
    clock.wrap(trainer, "_generate_and_score_completions", "rollout")
    clock.wrap(trainer, "compute_loss", "loss_forward")
    clock.wrap(trainer.accelerator, "backward", "backward")
    if vision := extra.pop("vision", None):
        clock.wrap(vision, "_compute", "vision")
    if args.spread:
        cut(trainer.vllm_generation, args, trainer.processing_class.tokenizer.eos_token_id)
    changes = extra.pop("changes", [])
    starts = [args.first_steps + IDEA_STEPS * place for place in range(len(args.ideas_here))]
    after_first = extra.pop("after_first", lambda: None)
    watch(args, trainer, clock, steps, {1: after_first, **dict(zip(starts, changes, strict=False))})
    torch.cuda.reset_peak_memory_stats()
    train_start = time.perf_counter()
    trainer.train()
    seconds = [step["seconds"] for step in steps]
    steady = steps[args.warm_up : args.first_steps]
    median = statistics.median(step["seconds"] for step in steady)
    clocked = steps[args.clock_from : args.clock_from + args.clocked]
    names = dict.fromkeys(name for step in clocked for name in step)
    parts = {name: round(statistics.median(step.get(name, 0.0) for step in clocked), 3) for name in names}
    free, total = torch.cuda.mem_get_info()
    result = {
        "arm": args.arm,
        "shape": shape_of(args),
        "ready_s": round(train_start - STARTED, 1),
        "first_update_s": round(train_start - STARTED + seconds[0], 1),
        "step_s": round(median, 3),
        "completions_per_s": round(args.prompts * args.generations / median, 2),
        "steps_s": [round(value, 2) for value in seconds],
        "peak_torch_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "used_gib": round((total - free) / 2**30, 2),
        "metrics": {
            key: trainer.state.log_history[0].get(key)
            for key in (
                "loss",
                "grad_norm",
                "completions/mean_length",
                "sampling/sampling_logp_difference/mean",
                "sampling/importance_sampling_ratio/mean",
            )
        },
        "idle": args.idle,
        "spread": args.spread,
        "parts": parts,
        **extra,
    }
    for name, start in zip(args.ideas_here, starts, strict=True):
        result[name] = round(statistics.median(seconds[start + 1 : start + IDEA_STEPS]), 3)
    return result


if __name__ == "__main__":
    sys.exit(main())
