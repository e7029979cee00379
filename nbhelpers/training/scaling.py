"""What several GPUs should bring, on paper: a run is compared with `expected_rate`.

A small model with five measured inputs. Generation and learning scale with the completions that a GPU has; reading the
weights for each token, handing the adapter to vLLM and the all-reduce of its gradient do not.
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


def expected_step(gpus: int, completions: int, tokens: int, *, link: float = 25e9) -> float:
    """Seconds for an optimiser step that `gpus` GPUs share.

    Args:
        completions: in the step, of all GPUs together.
        tokens: of a completion.
        link: bytes per second between two GPUs; the default is a PCIe 4.0 slot with 16 lanes, NVLink has ten times as
            much and more. Not measured here.
    """
    each = completions / gpus
    sampling = tokens * (SECONDS_PER_TOKEN + SECONDS_PER_TOKEN_AND_COMPLETION * each)
    all_reduce = 2 * (gpus - 1) / gpus * ADAPTER_BYTES / link  # a ring, and nothing else running meanwhile
    return sampling + SECONDS_TO_HAND_OVER + each * tokens * SECONDS_TO_LEARN + all_reduce


def expected_rate(gpus: int, completions: int, tokens: int, *, link: float = 25e9) -> float:
    """Completions per second in such a step; of a run it is `completions_per_step` over `step_time`."""
    return completions / expected_step(gpus, completions, tokens, link=link)
