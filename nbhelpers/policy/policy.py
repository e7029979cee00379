"""A policy as everything else holds it: a model with its processor that completes prompts about pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbhelpers.params import ModelParams, PlainError, resolve_path
from nbhelpers.policy.decoding import draws, generate_groups
from nbhelpers.policy.mends import end_of_turn_ids, never_sampled_ids


class PolicyError(PlainError, RuntimeError):
    """A policy could not be loaded, adapted or saved; the message says what to do."""


@contextlib.contextmanager
def loading(params: ModelParams) -> Iterator[None]:
    """Inside, transformers draws no bars, which would stay in an executed notebook, and its errors become sentences."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and "trust_remote_code" in str(error):
            raise PolicyError(
                f"model.name={params.name!r} brings code of its own, which is never run: use a model whose code is in "
                "transformers."
            ) from error
        if not isinstance(error, OSError):
            raise
        raise PolicyError(
            f"model.name={params.name!r} could not be loaded: {str(error).splitlines()[0]} "
            "Allowed are `embedded`, a local folder with the weights, or a hub id that this machine can reach "
            "(Gemma's own repository needs a token that accepted its licence; unsloth/gemma-3-4b-it does not)."
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()


@dataclass(frozen=True)
class Completion:
    """One sampled completion. `length` counts its tokens `ids`, the end-of-turn token included."""

    text: str
    length: int
    truncated: bool
    ids: tuple[int, ...] = ()


@dataclass
class Policy:
    """A model with its processor.

    Attributes:
        model: `Gemma3ForConditionalGeneration`, wrapped by `peft.PeftModel` once it has an adapter.
        processor: `Gemma3Processor` with `keep_one_bos` applied.
        backend: "transformers" or "unsloth".
        source: the folder or hub id that the base weights came from.
        notices: sentences on anything that was decided or changed while loading.
        sampler: what `sample` calls instead of `model.generate` (vLLM on a GPU); None for `model.generate`.
        engine: the vLLM `Engine` beside the model, or the `ServedEngine`, once it runs.
    """

    model: Any
    processor: Any
    backend: str
    source: str
    notices: list[str] = field(default_factory=list)
    sampler: Callable[..., list[list[Completion]]] | None = None
    engine: Any = None

    @property
    def has_adapter(self) -> bool:
        return hasattr(self.model, "peft_config")

    @property
    def holds_vllm(self) -> bool:
        """Whether vLLM runs in this process, and holds its GPU's memory."""
        return getattr(self.engine, "llm", None) is not None

    @property
    def decodes_in_groups(self) -> bool:
        """Whether the short cuts of `decoding` hold: transformers' own model, on a CPU or a GPU.

        vLLM has the like; Unsloth puts a `generate` of its own in place.
        """
        return self.backend == "transformers" and self.sampler is None

    @property
    def revision(self) -> str | None:
        """The commit on the hub that the base weights came from; None for a local folder."""
        return getattr(self.model.config, "_commit_hash", None)

    def release(self) -> None:
        """Give the memory back that the model and vLLM hold, so that another notebook finds the GPU free. The policy
        answers nothing after that.
        """
        import gc

        import torch

        core = getattr(getattr(getattr(self.engine, "llm", None), "llm_engine", None), "engine_core", None)
        if core is not None:
            core.shutdown()
        self.model = self.engine = self.sampler = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the model is in evaluation mode."""
        was_training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(was_training)

    @contextlib.contextmanager
    def without_adapter(self) -> Iterator[Policy]:
        """The policy as it was before training: the adapter is switched off inside the `with`."""
        with self.model.disable_adapter() if self.has_adapter else contextlib.nullcontext():
            yield self

    def prompt_text(self, conversation: list[dict]) -> str:
        """A conversation as the model reads it, before the picture's placeholder is expanded to its tokens."""
        return self.processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)

    def prompt_ids(self, conversations: Sequence[list[dict]]) -> list[list[int]]:
        """Each prompt's tokens with its picture's placeholder expanded; the picture itself is not looked at."""
        marker, expanded = self.processor.boi_token, self.processor.full_image_sequence
        texts = [self.prompt_text(conversation).replace(marker, expanded) for conversation in conversations]
        return self.processor.tokenizer(texts, add_special_tokens=False)["input_ids"]

    def prompt_length(self, conversation: list[dict]) -> int:
        """Tokens of a prompt with its picture."""
        return len(self.prompt_ids([conversation])[0])

    def inputs(self, conversations: Sequence[list[dict]], images: Sequence[Any]) -> Any:
        """The model's inputs for N prompts with a picture each, padded on the left: `input_ids`, `attention_mask` and
        `token_type_ids` (N, tokens), `pixel_values` (N, 3, height, width).
        """
        return self.processor(
            images=[[image] for image in images],
            text=[self.prompt_text(conversation) for conversation in conversations],
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_tensors="pt",
        )

    def sample(
        self,
        conversations: Sequence[list[dict]],
        images: Sequence[Any],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        samples_per_problem: int = 1,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """Complete each conversation about its picture.

        Args:
            conversations: N prompts, each a list of messages with one `{"type": "image"}`.
            images: N pictures (PIL, RGB).
            temperature: 0 for greedy decoding; otherwise plain sampling (no top-k, no top-p), as in training.
            samples_per_problem: completions per prompt; more than one needs a temperature.
            seed: of the sampling; torch's own generators are left as they were.
            first: the place of the first of them among all that are sampled with this seed, where another process has
                those before it.
            progress: called with the number of prompts finished since its last call.

        Returns:
            N lists of `samples_per_problem` completions.
        """
        if self.model is None:
            raise PolicyError("this policy gave its memory back: run the cell that loads it again.")
        if samples_per_problem > 1 and temperature == 0:
            raise PolicyError(
                f"samples_per_problem is {samples_per_problem} at temperature 0: greedy decoding gives the same "
                "completion every time. Set a temperature above 0 or samples_per_problem to 1."
            )
        sampler = self.sampler or self._sample_with_transformers
        return sampler(
            conversations,
            images,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            samples_per_problem=samples_per_problem,
            seed=seed,
            first=first,
            batch_size=batch_size,
            progress=progress,
        )

    def _sample_with_transformers(
        self, conversations, images, *, max_new_tokens, temperature, samples_per_problem, seed, batch_size, progress,
        first=0,
    ) -> list[list[Completion]]:  # fmt: skip
        import torch

        device = self.model.device
        eos_ids = end_of_turn_ids(self.processor, self.model)
        decoding: dict[str, Any] = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
        if temperature > 0:
            decoding = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        decoding |= {
            "max_new_tokens": max_new_tokens,
            "eos_token_id": eos_ids,
            "pad_token_id": self.processor.tokenizer.pad_token_id,
            "suppress_tokens": never_sampled_ids(self.processor) or None,
        }
        batch_size = batch_size or max(1, (128 if device.type == "cpu" else 16) // samples_per_problem)
        completions: list[list[Completion]] = []
        own_numbers = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with self.evaluating(), own_numbers, torch.inference_mode():
            torch.manual_seed(seed)
            for start in range(0, len(conversations), batch_size):
                end = start + batch_size
                inputs = self.inputs(conversations[start:end], images[start:end]).to(device)
                if self.decodes_in_groups:
                    places = range(first + start, first + min(end, len(conversations)))
                    drawn = draws(seed, places, samples_per_problem, max_new_tokens) if temperature > 0 else None
                    output = generate_groups(self.model, inputs, samples_per_problem, drawn, **decoding)
                else:
                    output = self.model.generate(**inputs, num_return_sequences=samples_per_problem, **decoding)
                tokens = output[:, inputs["input_ids"].shape[1] :].tolist()
                groups = self.completions(tokens, eos_ids, samples_per_problem)
                completions += groups
                if progress:
                    progress(len(groups))
        return completions

    def completions(self, ids: list[list[int]], eos_ids: list[int], size: int) -> list[list[Completion]]:
        """Sampled tokens (N * size, tokens) as N groups of completions; what stands after an end is not read."""
        flat = []
        for row in ids:
            end = next((place for place, token in enumerate(row) if token in eos_ids), None)
            kept = row if end is None else row[: end + 1]
            text = self.processor.tokenizer.decode(kept, skip_special_tokens=True)
            flat.append(Completion(text=text, length=len(kept), truncated=end is None, ids=tuple(kept)))
        return [flat[start : start + size] for start in range(0, len(flat), size)]


def weights_source(name: str) -> str:
    """The folder or hub id behind `model.name`, a relative folder found as doctor finds it (`resolve_path`); `embedded`
    is the tiny Gemma-3 that ships with the package.
    """
    if name == "embedded":
        from nbhelpers.embedded import embedded_path

        return str(embedded_path())
    return str(resolve_path(name) or name)
