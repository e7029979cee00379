"""The policy: Gemma-3 with its processor, LoRA on the layers that are trained, saving and loading, sampling.

Everything heavy is imported inside the functions: Unsloth has to be imported before transformers, trl and peft, and
which of them is needed is only known when a policy is asked for.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbhelpers import mends
from nbhelpers.params import LoraParams, ModelParams

ATTENTION_MODULES = {"language": ("q_proj", "k_proj", "v_proj", "o_proj"), "vision": ("q_proj", "k_proj", "v_proj", "out_proj")}
MLP_MODULES = {"language": ("gate_proj", "up_proj", "down_proj"), "vision": ("fc1", "fc2")}
TOWERS = {"language": "language_model", "vision": "vision_tower"}


class PolicyError(RuntimeError):
    """A policy could not be loaded, adapted or saved; the message says what to do."""


@dataclass(frozen=True)
class Completion:
    """One sampled completion. `length` counts its tokens, the end-of-turn token included."""

    text: str
    length: int
    truncated: bool


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
        engine: the vLLM engine beside the model (`generation.Engine`), once it runs.
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

    @contextlib.contextmanager
    def without_adapter(self) -> Iterator[Policy]:
        """The policy as it was before training: the adapter is switched off inside the `with`."""
        with self.model.disable_adapter() if self.has_adapter else contextlib.nullcontext():
            yield self

    def prompt_text(self, conversation: list[dict]) -> str:
        """A conversation as the model reads it, before the picture's placeholder is expanded to its tokens."""
        return self.processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)

    def prompt_length(self, conversation: list[dict]) -> int:
        """Tokens of a prompt with its picture (256 a picture for Gemma-3), without looking at the picture."""
        text = self.prompt_text(conversation).replace(self.processor.boi_token, self.processor.full_image_sequence)
        return len(self.processor.tokenizer(text, add_special_tokens=False).input_ids)

    def sample(
        self,
        conversations: Sequence[list[dict]],
        images: Sequence[Any],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        samples_per_problem: int = 1,
        seed: int = 0,
        batch_size: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """Complete each conversation about its picture.

        Args:
            conversations: N prompts, each a list of messages with one `{"type": "image"}`.
            images: N pictures (PIL, RGB).
            temperature: 0 for greedy decoding; otherwise plain sampling (no top-k, no top-p), as in training.
            samples_per_problem: completions a prompt; more than one needs a temperature.
            seed: of the sampling; torch's own generators are left as they were.
            progress: called with the number of prompts finished since its last call.

        Returns:
            N lists of `samples_per_problem` completions.
        """
        if samples_per_problem > 1 and temperature == 0:
            raise PolicyError(
                f"samples_per_problem is {samples_per_problem} at temperature 0: greedy decoding gives the same completion "
                "every time. Set a temperature above 0 or samples_per_problem to 1."
            )
        sampler = self.sampler or self._sample_with_transformers
        return sampler(
            conversations, images, max_new_tokens=max_new_tokens, temperature=temperature,
            samples_per_problem=samples_per_problem, seed=seed, batch_size=batch_size, progress=progress,
        )

    def _sample_with_transformers(
        self, conversations, images, *, max_new_tokens, temperature, samples_per_problem, seed, batch_size, progress
    ) -> list[list[Completion]]:
        import torch

        device = self.model.device
        eos_ids = mends.end_of_turn_ids(self.processor, self.model)
        decoding: dict[str, Any] = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
        if temperature > 0:
            decoding = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        batch_size = batch_size or max(1, (64 if device.type == "cpu" else 16) // samples_per_problem)
        was_training = self.model.training
        self.model.eval()
        completions: list[list[Completion]] = []
        devices = [device] if device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=devices), torch.inference_mode():
                torch.manual_seed(seed)
                for start in range(0, len(conversations), batch_size):
                    chunk = conversations[start : start + batch_size]
                    inputs = self.processor(
                        images=[[image] for image in images[start : start + batch_size]],
                        text=[self.prompt_text(conversation) for conversation in chunk],
                        padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt",
                    ).to(device)
                    output = self.model.generate(
                        **inputs, max_new_tokens=max_new_tokens, num_return_sequences=samples_per_problem,
                        eos_token_id=eos_ids, pad_token_id=self.processor.tokenizer.pad_token_id,
                        suppress_tokens=mends.never_sampled_ids(self.processor) or None, **decoding,
                    )
                    tokens = output[:, inputs["input_ids"].shape[1] :].tolist()
                    flat = [self._completion(ids, eos_ids) for ids in tokens]
                    completions += [flat[i : i + samples_per_problem] for i in range(0, len(flat), samples_per_problem)]
                    if progress:
                        progress(len(chunk))
        finally:
            self.model.train(was_training)
        return completions

    def _completion(self, ids: list[int], eos_ids: list[int]) -> Completion:
        end = next((place for place, token in enumerate(ids) if token in eos_ids), None)
        kept = ids if end is None else ids[: end + 1]
        text = self.processor.tokenizer.decode(kept, skip_special_tokens=True)
        return Completion(text=text, length=len(kept), truncated=end is None)


def choose_backend(params: ModelParams) -> tuple[str, str]:
    """Which backend `model.backend` means on this machine, and a sentence why."""
    import importlib.util

    import torch

    if params.backend != "auto":
        return params.backend, f"backend {params.backend}, as asked for"
    if not torch.cuda.is_available():
        return "transformers", "backend transformers: there is no CUDA GPU, and Unsloth needs one"
    if importlib.util.find_spec("unsloth") is None:
        return "transformers", "backend transformers: unsloth is not installed (pip install 'nbhelpers[gpu]')"
    return "unsloth", "backend unsloth: a CUDA GPU is there and unsloth is installed"


def weights_source(name: str) -> str:
    """The folder or hub id behind `model.name`; `embedded` is the tiny Gemma-3 that ships with the package."""
    if name == "embedded":
        from nbhelpers.tiny_gemma import embedded_path

        return str(embedded_path())
    return name


def load_policy(params: ModelParams, lora: LoraParams | None = None) -> Policy:
    """Load the base model and its processor and, with `lora`, attach a fresh adapter.

    Raises:
        PolicyError: the weights cannot be had, or the settings need a GPU that is not there.
    """
    import torch

    backend, why = choose_backend(params)
    if not torch.cuda.is_available():
        wants = [
            (backend == "unsloth", "model.backend=unsloth", "model.backend=transformers"),
            (params.load_in_4bit, "model.load_in_4bit=true", "model.load_in_4bit=false"),
            (params.fast_inference, "model.fast_inference=true (vLLM)", "model.fast_inference=false"),
        ]
        asked = [(setting, instead) for wanted, setting, instead in wants if wanted]
        if asked:
            raise PolicyError(
                f"{', '.join(setting for setting, _ in asked)} needs an NVIDIA GPU, and PyTorch {torch.__version__} sees none here. "
                f"Run on a GPU machine, or set {', '.join(instead for _, instead in asked)}; "
                "the embedded default (`nbhelpers run smoke`) needs no GPU. `nbhelpers doctor` says what is missing."
            )
    source = weights_source(params.name)
    if backend == "unsloth":
        from nbhelpers.unsloth_backend import load_unsloth_policy

        policy = load_unsloth_policy(params, lora, source)
    else:
        policy = Policy(*_load_transformers(params, source), backend="transformers", source=source)
        if lora is not None:
            attach_lora(policy, lora, params)
    policy.notices.insert(0, why)
    mends.keep_one_bos(policy.processor)
    mends.end_of_turn_ids(policy.processor, policy.model)
    policy.processor.tokenizer.padding_side = "left"
    if params.fast_inference:
        from nbhelpers.generation import sample_with_vllm

        sample_with_vllm(policy, params)
    return policy


def load_processor(params: ModelParams) -> Policy:
    """The policy without its weights (`model` is None): it renders and measures prompts; a few megabytes, no GPU.

    Raises:
        PolicyError: the processor cannot be had.
    """
    source = weights_source(params.name)
    policy = Policy(None, _processor(params, source), backend="transformers", source=source)
    mends.keep_one_bos(policy.processor)
    return policy


def _load_transformers(params: ModelParams, source: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    on_gpu = torch.cuda.is_available()
    kwargs: dict[str, Any] = {"dtype": torch.bfloat16 if on_gpu else torch.float32, "attn_implementation": "sdpa"}
    if params.load_in_4bit:
        kwargs["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
        )
    if on_gpu:
        kwargs["device_map"] = {"": torch.cuda.current_device()}
    processor = _processor(params, source)
    try:
        model = AutoModelForImageTextToText.from_pretrained(source, **kwargs)
    except OSError as error:
        raise _not_loaded(params, error) from error
    return model, processor


def _processor(params: ModelParams, source: str) -> Any:
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(source)
    except OSError as error:
        raise _not_loaded(params, error) from error


def _not_loaded(params: ModelParams, error: OSError) -> PolicyError:
    return PolicyError(
        f"model.name={params.name!r} could not be loaded: {str(error).splitlines()[0]} "
        "Allowed are `embedded`, a local folder with the weights, or a hub id that this machine can reach "
        "(Gemma's own repository needs a token that accepted its licence; unsloth/gemma-3-4b-it does not)."
    )


def lora_target_pattern(lora: LoraParams) -> str:
    """The regular expression of module names that get an adapter: by default the language model's alone."""
    parts = []
    for tower, wanted in (("language", lora.finetune_language_layers), ("vision", lora.finetune_vision_layers)):
        names = ATTENTION_MODULES[tower] * lora.finetune_attention_modules + MLP_MODULES[tower] * lora.finetune_mlp_modules
        if wanted and names:
            parts.append(rf"(?:.*\.)?{TOWERS[tower]}\..*\.(?:{'|'.join(names)})")
    return "|".join(parts)


def attach_lora(policy: Policy, lora: LoraParams, model_params: ModelParams) -> None:
    """Wrap `policy.model` with a fresh LoRA adapter; every other parameter is frozen."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if model_params.load_in_4bit:
        policy.model = prepare_model_for_kbit_training(policy.model, use_gradient_checkpointing=False)
    config = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, bias="none", task_type="CAUSAL_LM",
        target_modules=lora_target_pattern(lora),
    )
    policy.model = get_peft_model(policy.model, config)


def trainable_parameters(policy: Policy) -> dict[str, int]:
    """Numbers of parameters: trained and frozen, by part of the model."""
    counts = {"language trained": 0, "vision trained": 0, "language frozen": 0, "vision frozen": 0}
    for name, parameter in policy.model.named_parameters():
        tower = "vision" if "vision_tower" in name or "multi_modal_projector" in name else "language"
        counts[f"{tower} {'trained' if parameter.requires_grad else 'frozen'}"] += parameter.numel()
    return counts


def save_final_model(policy: Policy, path: Path) -> Path:
    """Write the LoRA adapter, tokenizer, processor and the base model's config to `path` (the reference recipe's
    `final_model/`); it loads with `load_final_model`, with peft, and on a GPU with Unsloth's `FastVisionModel`."""
    path = Path(path)
    policy.model.save_pretrained(path)
    mends.restore_bos(policy.processor)
    try:
        policy.processor.save_pretrained(path)
    finally:
        mends.keep_one_bos(policy.processor)
    policy.model.config.save_pretrained(path)
    return path


def load_final_model(path: Path, params: ModelParams) -> Policy:
    """Load what `save_final_model` wrote: the base model that the adapter names, the adapter, and the saved processor.

    `params` gives the precision; its `name` is used where the base that the adapter names is not there. The backend is transformers
    (with vLLM where `fast_inference` is set), whichever one trained: both save the same adapter.
    """
    from peft import PeftConfig, PeftModel
    from transformers import AutoProcessor

    path = Path(path)
    if not (path / "adapter_config.json").is_file():
        raise PolicyError(f"{path} holds no trained adapter (adapter_config.json is missing): run notebook 03 first.")
    base = PeftConfig.from_pretrained(str(path)).base_model_name_or_path
    if not base or (Path(base).is_absolute() and not Path(base).exists()):
        base = weights_source(params.name)
    policy = load_policy(params.model_copy(update={"name": base, "backend": "transformers"}))
    policy.model = PeftModel.from_pretrained(policy.model, str(path)).eval()
    policy.processor = AutoProcessor.from_pretrained(str(path))
    policy.processor.tokenizer.padding_side = "left"
    mends.keep_one_bos(policy.processor)
    return policy


def adapter_norm(policy: Policy) -> float:
    """Euclidean norm of all LoRA B matrices: 0 for an adapter that has learnt nothing."""
    squares = sum(float(p.detach().float().pow(2).sum()) for n, p in policy.model.named_parameters() if "lora_B" in n)
    return math.sqrt(squares)
