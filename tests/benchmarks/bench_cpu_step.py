"""The short cuts of a GRPO step on a CPU, each against the same step without it, in one run.

python tests/benchmarks/bench_cpu_step.py [--rounds 5] [--threads 2]

`smoke`'s step on the embedded model: 24 prompts x 4 completions of at most 40 tokens, with an adapter that is not 0.
Each line is the median of the rounds.
"""

# 2026-11-24, 2 CPU cores (AMD EPYC), Python 3.11.7, torch 2.13.0+cpu, trl 1.14.2, transformers 5.17.0, one run:
#
#   short cut                                                                            with it   before it
#   sampling: the adapter merged into the weights (float32 only)                         1.58 s    1.88 s
#   sampling: completions that have ended leave the batch                                1.05 s    1.58 s
#   sampling: a prompt is read once a group                                              0.74 s    1.05 s
#   loss and gradients: a group is one row, its prompt there once, four rows at once     0.46 s    1.43 s
#   the same, a fifth of the groups having earned the same throughout                    0.42 s    0.46 s
#
# They hold for the transformers backend; the loss as one row, so far, for one process on a CPU. `smoke` with seed 42 on
# two idle cores: training 35 s (1.5 s per step instead of 4.0 before), the four notebooks 132 s (15, 17, 53 and 47 s)
# instead of 246 and 264 s in two fresh environments. Notebook 03 takes 1.1 GiB at its peak (1,102 to 1,149 MiB), 04 as
# much.

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def make_batch(policy, params, problems):
    """(inputs of the prompts, batch with sampled completions as TRL's loss has it, numbers of groups)."""
    import torch

    from nbhelpers.policy import completions_as_inputs
    from nbhelpers.problems import conversation

    asked = [conversation(problem, params.reward) for problem in problems]
    pictures, size = [problem["image"] for problem in problems], params.training.num_generations
    limit = params.training.max_completion_length
    groups = policy.sample(asked, pictures, max_new_tokens=limit, temperature=1.0, samples_per_problem=size, seed=0)
    ids = [list(one.ids) for group in groups for one in group]
    repeated = [[item for item in items for _ in range(size)] for items in (asked, pictures)]
    batch, completions, mask = completions_as_inputs(policy, *repeated, ids)
    batch |= {"completion_ids": completions, "completion_mask": mask}
    return dict(policy.inputs(asked, pictures)), batch, torch.arange(len(ids)) // size


def generations(policy, prompts, size, limit):
    """Name and function: 96 completions sampled without, with one and with all of the short cuts."""
    import torch

    from nbhelpers.policy.decoding import generate_groups, merged_adapter
    from nbhelpers.policy.mends import end_of_turn_ids

    ends, pad = end_of_turn_ids(policy.processor, policy.model), policy.processor.tokenizer.pad_token_id
    options = {"max_new_tokens": limit, "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0,
               "eos_token_id": ends, "pad_token_id": pad}  # fmt: skip
    rows = {name: values.repeat_interleave(size, dim=0) for name, values in prompts.items()}

    def plain():
        torch.manual_seed(0)
        return policy.model.generate(**rows, **options)

    def merged():
        with merged_adapter(policy.model):
            return plain()

    def shrinking():
        torch.manual_seed(0)
        return generate_groups(policy.model, rows, 1, **options)

    def groups():
        torch.manual_seed(0)
        return generate_groups(policy.model, prompts, size, **options)

    return {
        "transformers' own loop": plain,
        "+ adapter merged": merged,
        "+ ended completions leave": shrinking,
        "+ a prompt read once a group": groups,
    }


def losses(policy, batch, groups):
    """Name and function: forward and backward of the loss without, with one and with all of the short cuts."""
    import torch

    from nbhelpers.policy import merged_adapter
    from nbhelpers.training import packed

    weights = torch.randn(len(groups), generator=torch.Generator().manual_seed(1))
    idle = torch.where(groups % 5 == 0, 0.0, weights)  # a fifth of the groups earned the same throughout
    tokens = batch["completion_ids"].shape[1]
    known = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids", "pixel_values")}

    def backward(log_probs, advantages):
        policy.model.zero_grad()
        (log_probs * batch["completion_mask"] * advantages[:, None]).sum().backward()

    def plain(context=contextlib.nullcontext):
        with context():
            logits = policy.model(**known, logits_to_keep=tokens + 1, use_cache=False).logits[:, :-1]
        backward(logits.log_softmax(-1).gather(-1, batch["completion_ids"][..., None])[..., 0], weights)

    def packed_loss(at_once, advantages, merged=packed.merged_adapter):
        packed.ROWS_AT_ONCE, packed.merged_adapter = at_once, merged
        backward(packed.packed_log_probs(policy.model, batch, groups, advantages != 0, 1.0)[0], advantages)

    apart = lambda model: contextlib.nullcontext()  # noqa: E731
    return {
        "each completion with its prompt": plain,
        "the same, adapter merged": lambda: plain(lambda: merged_adapter(policy.model)),
        "a group is a row, all at once, not merged": lambda: packed_loss(24, weights, apart),
        "a group is a row, all at once": lambda: packed_loss(24, weights),
        "a group is a row, 8 at once": lambda: packed_loss(8, weights),
        "a group is a row, 4 at once, not merged": lambda: packed_loss(4, weights, apart),
        "a group is a row, 4 at once": lambda: packed_loss(4, weights),
        "a group is a row, 2 at once": lambda: packed_loss(2, weights),
        "4 at once, a fifth of the groups idle": lambda: packed_loss(4, idle),
    }


def measure(title, arms, rounds):
    """Every arm once a round, so that a busy moment hits all of them; the first is the measure of the others."""
    seconds = {name: [] for name in arms}
    for turn in range(rounds + 1):
        for name, run in arms.items():
            begun = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - begun)
    first = statistics.median(next(iter(seconds.values())))
    print(f"\n{title}")
    for name, times in seconds.items():
        typical = statistics.median(times)
        print(f"  {name:45} {typical:6.3f} s   {first / typical:5.2f} times   (fastest {min(times):.3f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    import torch
    from tiny_policy import policy_with_adapter

    from nbhelpers.params import RunParams
    from nbhelpers.problems.drawn import make_problems
    from nbhelpers.training import looking_once

    torch.set_num_threads(options.threads)
    params = RunParams.load("smoke")
    policy = policy_with_adapter(std=0.02)
    training = params.training
    prompts, batch, groups = make_batch(policy, params, make_problems(24, seed=5))
    lengths = batch["completion_mask"].sum(dim=1).float()
    print(f"{len(groups)} completions, {lengths.mean():.1f} tokens in the mean, {int(lengths.max())} at most")
    with looking_once(policy.model, policy.processor), torch.no_grad():
        policy.model.eval()
        arms = generations(policy, prompts, training.num_generations, training.max_completion_length)
        measure("sampling (pictures known)", arms, options.rounds)
    with looking_once(policy.model, policy.processor):
        policy.model.train()
        measure("loss, forward and backward (pictures known)", losses(policy, batch, groups), options.rounds)


if __name__ == "__main__":
    main()
