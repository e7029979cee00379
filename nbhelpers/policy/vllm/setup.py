"""What vLLM is told before and when it starts: its environment and its graphs."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from nbhelpers.params import PlainError

WITHOUT_VLLM = "`nbhelpers doctor` compares versions; model.fast_inference=false trains without vLLM."


class GenerationError(PlainError, RuntimeError):
    """vLLM cannot generate for this policy; the message says what to set."""


def prepare_environment() -> None:
    """Settings that vLLM, Triton and Unsloth read from the environment; call it before they are imported. The user's
    own values stay.

    Compiled graphs and kernels stay between runs in `cache_folder()`.
    """
    cache = cache_folder()
    for variable, value in {
        "VLLM_CACHE_ROOT": cache / "vllm",
        "TRITON_CACHE_DIR": cache / "triton",
        "TORCHINDUCTOR_CACHE_DIR": cache / "inductor",
        "UNSLOTH_COMPILE_LOCATION": cache / "unsloth",  # otherwise a folder beside the notebook
        # What one start has measured of the memory, the next of the same kind need not: it stays in the folder above.
        "VLLM_ENABLE_STARTUP_PLAN": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # Its sampler is compiled with nvcc at the first use and is not used with processed log-probs anyway.
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
    }.items():
        os.environ.setdefault(variable, str(value))


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def cache_folder() -> Path:
    """`NBHELPERS_CACHE`, or `nbhelpers` in the user's cache folder."""
    base = os.environ.get("NBHELPERS_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "nbhelpers"


def capture_sizes(completions: int) -> list[int]:
    """Batch sizes to capture graphs for, when at most `completions` are generated at once.

    A group's completions end at different times, so every size below occurs, and a batch runs in the next larger graph.
    Decoding is bound by reading the weights, so that the padded rows of powers of two cost next to nothing; vLLM's own
    steps of 8 are captured for twice the batch.
    """
    return [*(2**power for power in range((completions - 1).bit_length())), completions]


def compilation(completions: int) -> dict[str, Any]:
    """vLLM's `compilation_config` for at most `completions` at once.

    Mode 0: no Inductor, whose compilation takes most of a minute at the first start. vLLM then drops its default graphs
    too, without a word ("FULL_AND_PIECEWISE"), and a token takes twice as long; graphs of whole decode steps need no
    compilation.
    """
    return {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": capture_sizes(completions)}
