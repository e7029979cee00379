"""What several GPUs should bring, on paper: a run is compared with `expected_rate`.

A small model with five measured inputs. Generation and learning scale with the completions that a GPU has; reading the
weights for each token, handing the adapter to vLLM and the all-reduce of its gradient do not.

Completions per second that it gives for 512 tokens and a link of 25 GB/s:

    completions per step     1 GPU    2 GPUs    4 GPUs    8 GPUs
    64 in all                  6.0       9.8      14.4      18.8
    64 a GPU                   6.0      12.0      23.9      47.8

Left out: waiting for the process whose completions are longest, and links between hosts. The throughput of 4B was not
measured on more than one GPU. Seen on two (NVIDIA H100 80 GB beside other work, 2026-11-24; the embedded model, 24 x 4
completions per step, each process with its own vLLM), the mean reward of 60 steps by tens:

    1 process, seed 1      2.44 2.90 3.15 3.34 3.30 3.52    1.0 s per step
    1 process, seed 2      2.44 2.90 3.22 3.33 3.32 3.51    0.86 s
    2 processes, seed 2    2.46 2.90 3.16 3.37 3.25 3.56    0.66 s

Two processes trained in 4 bit as well (three steps, sampled by transformers). A process that was killed ended the run
after 33 s, of which torchrun waits 30 for the other one, which waits for NCCL; its checkpoint was whole.
"""

from __future__ import annotations

# One NVIDIA H100 80 GB, 2026-11-24: Gemma-3 4B's shape in 16 bit, transformers backend with vLLM beside it, activations
# recomputed. Two shapes were measured, 1 x 4 x 256 and 8 x 8 x 512 (prompts x completions x tokens): 1.25 and 3.8 s to
# sample and hand over, which the two terms per token are solved from; 6.9 s in the second for all that learning takes.
SECONDS_PER_TOKEN = 4.51e-3  # reading the weights, whatever the number of completions
SECONDS_PER_TOKEN_AND_COMPLETION = 4.4e-5
SECONDS_TO_LEARN = 6.9 / 64 / 512  # scoring, forward, backward: per completion and token
SECONDS_TO_HAND_OVER = 0.05  # NVIDIA H200: 1.07 s to sample 256 tokens and hand over, of it 256 x 4.0 ms for sampling
ADAPTER_BYTES = 4 * 30e6  # a gradient of 30 M parameters in float32
# Bytes per second between two GPUs, those of a PCIe 4.0 slot with 16 lanes: not measured here. NVLink has ten times as
# much and more.
LINK = 25e9


def expected_step(gpus: int, completions: int, tokens: int) -> float:
    """Seconds for an optimiser step that `gpus` GPUs share.

    Args:
        completions: in the step, of all GPUs together.
        tokens: of a completion.
    """
    each = completions / gpus
    sampling = tokens * (SECONDS_PER_TOKEN + SECONDS_PER_TOKEN_AND_COMPLETION * each)
    all_reduce = 2 * (gpus - 1) / gpus * ADAPTER_BYTES / LINK  # a ring, and nothing else running meanwhile
    return sampling + SECONDS_TO_HAND_OVER + each * tokens * SECONDS_TO_LEARN + all_reduce


def expected_rate(gpus: int, completions: int, tokens: int) -> float:
    """Completions per second in such a step; of a run it is `completions_per_step` over `step_time`."""
    return completions / expected_step(gpus, completions, tokens)
