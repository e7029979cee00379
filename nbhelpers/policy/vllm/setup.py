"""What this project changes about vLLM before it starts: its environment, its graphs, and mends for what costs it time
or truth.

Every mend is for vLLM 0.26. All of them leave the result of a request as it is, but for rounding and for
`accept_expanded_prompts`, which mends it.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nbhelpers.policy.vllm.norm import use_in_vllm


class VllmSetupError(RuntimeError):
    """vLLM cannot be used with this model; the message says why."""


def cache_folder() -> Path:
    """Where compiled graphs and kernels stay between runs: `NBHELPERS_CACHE`, or `nbhelpers` in the user's cache
    folder.
    """
    base = os.environ.get("NBHELPERS_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "nbhelpers"


def prepare_environment() -> None:
    """Settings that vLLM, Triton and Unsloth read from the environment; call it before they are imported. The user's
    own values stay.
    """
    cache = cache_folder()
    for variable, value in {
        "VLLM_CACHE_ROOT": cache / "vllm",
        "TRITON_CACHE_DIR": cache / "triton",
        "TORCHINDUCTOR_CACHE_DIR": cache / "inductor",
        "UNSLOTH_COMPILE_LOCATION": cache / "unsloth",  # otherwise a folder beside the notebook
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # Its sampler is compiled with nvcc at the first use and is not used with processed log-probs anyway.
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
    }.items():
        os.environ.setdefault(variable, str(value))


def capture_sizes(completions: int) -> list[int]:
    """Batch sizes to capture graphs for, when at most `completions` are generated at once.

    A group's completions end at different times, so every size below occurs, and a batch runs in the next larger graph.
    Decoding is bound by reading the weights, so that the padded rows of powers of two cost next to nothing; vLLM's own
    steps of 8 are captured for twice the batch.
    """
    sizes = [1]
    while sizes[-1] * 2 < completions:
        sizes.append(sizes[-1] * 2)
    return sizes if sizes[-1] == completions else [*sizes, completions]


def compilation(completions: int) -> dict[str, Any]:
    """vLLM's `compilation_config` for at most `completions` at once.

    Mode 0: no Inductor, whose compilation takes most of a minute at the first start. vLLM then drops its default graphs
    too, without a word ("FULL_AND_PIECEWISE"), and a token takes twice as long; graphs of whole decode steps need no
    compilation.
    """
    return {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": capture_sizes(completions)}


def mend() -> None:
    """Apply every change to vLLM that lasts for the process; again has no effect.

    Raises:
        ImportError: vLLM is not installed.
    """
    accept_expanded_prompts()
    find_pictures_once()
    use_in_vllm()


def collapse_pictures(ids: Sequence[int], sequence: Sequence[int], marker: int, newlines: Sequence[int]) -> list[int]:
    """Undo the processor's expansion of a picture's marker, so that vLLM can expand it itself.

    Args:
        ids: prompt tokens in which each picture is `sequence`, its first and last newline perhaps merged with a
            neighbouring one.
        sequence: the tokens of `processor.full_image_sequence`, from newline to newline.
        marker: the token `<start_of_image>`.
        newlines: the tokens of 1, 2, 3 and 4 newlines.
    """
    lines = {token: count for count, token in enumerate(newlines, start=1)}
    inner = list(sequence[1:-1])
    collapsed: list[int] = []
    place = 0
    while place < len(ids):
        if list(ids[place : place + len(inner)]) != inner:
            collapsed.append(ids[place])
            place += 1
            continue
        place += len(inner)
        if collapsed and lines.get(collapsed[-1], 0) >= 2:
            before = lines[collapsed.pop()] - 2
            collapsed += [newlines[before - 1]] if before else []
        collapsed.append(marker)
        if place < len(ids) and lines.get(ids[place], 0) >= 2:
            after = lines[ids[place]] - 2
            collapsed += [newlines[after - 1]] if after else []
            place += 1
    return collapsed


@functools.cache
def accept_expanded_prompts() -> None:
    """Let vLLM take prompts whose pictures are expanded to their tokens already, as TRL and Unsloth send them.

    vLLM 0.26 expands `<start_of_image>` of a token prompt once more (`BaseMultiModalProcessor.apply`: a prompt of
    tokens counts as not expanded), so that Gemma-3 sees a second row of image tokens without features. Nothing fails:
    with the embedded model the log-probs were 1.6 nats a token away from the trainer's, and every importance weight was
    0 (NVIDIA H200, trl 1.14.2, 2026-11-23).
    """
    from vllm.model_executor.models.gemma3_mm import Gemma3MultiModalProcessor

    def tokens_only(self: Any, prompt_tokens: list[int]) -> list[int]:
        processor = self.info.get_hf_processor()
        return collapse_pictures(prompt_tokens, *_picture_tokens(processor))

    Gemma3MultiModalProcessor._apply_hf_processor_tokens_only = tokens_only


@functools.cache
def find_pictures_once() -> None:
    """Let vLLM look up once where a prompt's picture lies.

    vLLM 0.26 finds the picture's tokens of each running request anew for every token that it decodes
    (`compute_mm_prefix_ranges`, for the bidirectional attention among them), with half a dozen operations on a mask:
    time in which the GPU waits, in proportion to the batch.
    """
    from vllm.multimodal.inputs import PlaceholderRange

    find = PlaceholderRange.extract_embeds_range

    def found_once(self: Any) -> list[tuple[int, int]]:
        kept = (
            self.__dict__
        )  # the dataclass is frozen; functools.cached_property, which it uses itself, writes here too
        if "_embeds_range" not in kept:
            kept["_embeds_range"] = find(self)
        return kept["_embeds_range"]

    PlaceholderRange.extract_embeds_range = found_once


@functools.lru_cache(maxsize=4)
def _picture_tokens(processor: Any) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """`sequence`, `marker` and `newlines` of `collapse_pictures` for a Gemma-3 processor."""
    tokenizer = processor.tokenizer
    two = tokenizer.convert_tokens_to_ids("\n\n")
    sequence = tokenizer(processor.full_image_sequence, add_special_tokens=False)["input_ids"]
    if sequence[0] != two or sequence[-1] != two:
        raise VllmSetupError("the tokenizer does not hold two newlines as one token, as Gemma-3's does.")
    newlines = tuple(tokenizer.convert_tokens_to_ids("\n" * count) for count in (1, 2, 3, 4))
    return tuple(sequence), tokenizer.convert_tokens_to_ids(processor.boi_token), newlines


@contextlib.contextmanager
def quick_start(source: str, tokenizer: Any) -> Iterator[None]:
    """Inside, vLLM starts with what this process has already: the tokenizer of `source`, the folder or hub id that vLLM
    is given.

    vLLM 0.26 loads the tokenizer once for itself and once for each processor that it builds, and keeps a pool of deep
    copies for threads that are not there: with Gemma-3's 262,144 tokens 27 s of stock TRL's start, 4 s with shallow
    copies of one. It also starts a second Python to look at the model's class, so as to keep CUDA out of this one,
    where CUDA runs already (19 s at the first start; its answer is cached). Measured on the machine of README's table,
    2026-11-23. Prompts arrive as token ids, and completions leave as such.
    """
    import copy

    import vllm.model_executor.models.registry as registry
    import vllm.renderers.hf as renderers
    from transformers import AutoTokenizer

    bound = AutoTokenizer.from_pretrained

    def from_pretrained(cls: type, name: Any, *args: Any, **kwargs: Any) -> Any:
        # Offline, vLLM asks for a hub id by the folder of its snapshot.
        if str(name) != source and f"models--{source.replace('/', '--')}" not in Path(name).parts:
            return bound(name, *args, **kwargs)
        twin = copy.copy(tokenizer)
        # transformers deep-copies a processor's arguments, the tokenizer among them, each time it builds one.
        members = {"__deepcopy__": lambda self, memo: self, "__module__": type(twin).__module__}
        twin.__class__ = type(type(twin).__name__, (type(twin),), members)
        return twin

    changes = [
        (AutoTokenizer, "from_pretrained", classmethod(from_pretrained)),
        (renderers, "maybe_make_thread_pool", lambda tokenizer, copies: tokenizer),
        (registry, "_run_in_subprocess", lambda function: function()),
    ]
    originals = [(owner, name, vars(owner)[name]) for owner, name, _ in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in originals:
            setattr(owner, name, value)


class GenerationError(RuntimeError):
    """vLLM cannot generate for this policy; the message says what to set."""
