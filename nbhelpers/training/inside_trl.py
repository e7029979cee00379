"""TRL's private names: what is changed about GRPOTrainer and its colocated vLLM (tested: `runs/tested.json`).

* `_calculate_rewards`, `_generate_and_score_completions`: the only places where a rollout's rewards and advantages are.
* `_generate_single_turn`: around it, `generate` computes what a group shares once.
* `_get_train_sampler`: each epoch's order from the seed and the epoch alone.
* `_step`: micro-batches of the whole training, from which TRL tells when a rollout is used up; it counts on after a
  resume.
* `_metrics`: what a rehearsed loss adds to it is taken out again.
* `_compute_loss`, `_get_per_token_logps_and_entropies`, `_ForwardRedirection`: the log-probs of a group's completions
  after one common prompt; the importance weights of vLLM from them.
* `shuffle_sequence_dict`, which `_prepare_inputs` calls: a group's completions stay together.
* `use_liger_kernel` and `_ForwardRedirection` after construction, `_chunked_logps`: TRL's log-probs without all logits.
* `VLLMGeneration`, its `_init_vllm`, `sync_weights` and `generate`: an engine that runs already, the adapter alone.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nbhelpers.policy import Engine, draws, in_groups, replaced
from nbhelpers.training.fused import Lengths
from nbhelpers.training.packed import PACKED, PICTURES, packed_log_probs
from nbhelpers.training.vision_cache import features_of

HERE = "here_"  # what a loss's inputs hold in main memory


@functools.cache
def rollout_trainer_class() -> type:
    """`GRPOTrainer` of the TRL that is imported (Unsloth replaces it), which shows each rollout it trains on to its
    `on_rollout(trainer, inputs, completions, completion_ids, rewards, advantages)`: this process's rows, their rewards
    (rows, reward functions) with NaN where a function could not judge.
    """
    from trl import GRPOTrainer

    class RolloutTrainer(GRPOTrainer):
        def _get_train_sampler(self, dataset=None):
            return order_by_epoch(super()._get_train_sampler(dataset), lambda: int(self.state.epoch or 0))

        def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
            start = self.accelerator.process_index * len(prompts)  # TRL gathers the rewards of all processes
            self._scored = (inputs, completions, completion_ids_list, rewards[start : start + len(prompts)].tolist())
            return rewards

        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            if self.model.training:
                self.sampled_log_probs = output.get("sampling_per_token_logps")  # vLLM's, (completions, tokens)
                self.on_rollout(self, *self._scored, output["advantages"].tolist())
            return output

    return RolloutTrainer


def order_by_epoch(sampler: Any, epochs_done: Callable[[], int]) -> Any:
    """TRL's `RepeatSampler` whose order in an epoch is that of an uninterrupted run, whichever epoch comes first.

    TRL 1.14.2 draws the order of each epoch from a generator that begins anew in a resumed process, so that its first
    epoch has the order of epoch 0: killed in the third epoch and resumed, a run went on with problems that it had just
    had (found 2026-11-24; modelscope/ms-swift#10050 is the same fault, TRL has no issue on it). The sampler asks for
    the epoch itself: on a resume with several processes, accelerate 1.15's `set_epoch` does not reach it through
    `skip_first_batches`. `tests/faults/test_resuming_later.py` tells when this can go.

    Args:
        epochs_done: whole epochs that training has behind it when the next order is drawn.
    """
    import torch

    class OrderByEpoch(torch.utils.data.Sampler):
        def __iter__(self):
            if sampler.shuffle:
                sampler.generator.manual_seed(sampler.seed)
                for _ in range(epochs_done()):
                    torch.randperm(sampler.num_samples, generator=sampler.generator)
            return iter(sampler)

        def __len__(self):
            return len(sampler)

    return OrderByEpoch()


def rollouts_callback(trainer: Any, is_asked_to_stop: Callable[[], bool]) -> Any:
    """A callback for the trainer of every process by which a run is saved, and stopped with a checkpoint, between two
    rollouts alone: from there it goes on as if it had not been interrupted.

    A rollout may serve several optimiser steps (`num_iterations`, `steps_per_generation`). TRL keeps none in a
    checkpoint, and begins to count the batches that it serves at 0 in each process: so the count goes on, and what is
    to be saved in the middle of a rollout is saved at its end.

    Args:
        is_asked_to_stop: asked after each step; one process that says so stops all.
    """
    from accelerate.utils import gather_object
    from transformers import TrainerCallback

    class RolloutsCallback(TrainerCallback):
        owed = False

        def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
            per_epoch, accumulation = len(train_dataloader), args.gradient_accumulation_steps
            epochs, steps = divmod(state.global_step, -(-per_epoch // accumulation))
            trainer._step = epochs * per_epoch + steps * accumulation

        def on_step_end(self, args, state, control, **kwargs):
            stops, new_next = any(gather_object([is_asked_to_stop()])), self._begins_a_rollout(args)
            if state.global_step < state.max_steps:
                self.owed = self.owed or control.should_save
                control.should_save = self.owed and new_next
                self.owed = self.owed and not control.should_save
            if stops and new_next:
                control.should_save = control.should_training_stop = True

        def _begins_a_rollout(self, args):
            """Whether the next batch begins with new completions."""
            return trainer._step % (args.steps_per_generation * trainer.num_iterations) == 0

    return RolloutsCallback()


@functools.cache
def sampling_in_groups(trainer_class: type) -> type:
    """`trainer_class` whose `generate` computes what the completions of a prompt share once (`policy.in_groups`), and
    draws a prompt's completions by seed, step and the prompt's place in the step, whichever process has it.
    """

    class SamplingInGroups(trainer_class):
        def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
            first = self.accelerator.process_index * len(prompt_ids)  # of this process's rows, in the whole batch
            drawn = self._draws(range(first, first + len(prompt_ids)), num_generations)
            with in_groups(self.accelerator.unwrap_model(self.model), num_generations, drawn):
                return super()._generate_single_turn(
                    prompt_ids, images, multimodal_fields, num_generations, has_tool_images
                )

        def _draws(self, rows, group):
            accumulation = self.args.gradient_accumulation_steps
            batch = self._step % accumulation // self.args.steps_per_generation  # where a step generates more than once
            prompts = self.args.generation_batch_size // group
            places = range(rows.start // group, -(-rows.stop // group))
            drawn = draws(
                self.args.seed, [batch * prompts + place for place in places], group, self.max_completion_length,
                step=self.state.global_step,
            )  # fmt: skip
            start = rows.start - places.start * group
            return drawn[start : start + len(rows)]

    return SamplingInGroups


@functools.cache
def scoring_in_groups(trainer_class: type) -> type:
    """`trainer_class` whose loss takes the log-probs of a group from one row (`packed`), where it has a picture a row,
    and the importance weights of vLLM from those log-probs.

    A completion whose advantage is 0 has no part in the gradient: a group of them is left out of the backward pass, and
    where vLLM has told its log-probs, each of them out of the forward pass too. Averages and divisors stay as they are.

    TRL shuffles what was generated before it cuts it into micro-batches. Where any order gives the same gradient, it
    stays in order, so that a micro-batch holds whole groups. For the weights TRL runs the policy once more over the
    whole batch; where that is used for one update, those log-probs are the loss's own (`old_per_token_logps` is then
    `per_token_logps.detach()`, as TRL does itself without vLLM).

    `row_lengths` of the trainer: the `lengths` of `packed_log_probs`.
    """
    import torch
    import trl.trainer.grpo_trainer as module

    class ScoringInGroups(trainer_class):
        row_lengths: Lengths | None = None
        _inputs: dict | None = None  # of the loss that is being computed

        def _prepare_inputs(self, generation_batch):
            of_its_own = self.loss_type == "bnpo" or self.top_entropy_quantile < 1.0 or self._entropy_bonus_enabled
            cut = self.model.training and self.args.steps_per_generation > 1
            in_order = cut and _one_update_a_batch(self) and not of_its_own
            with replaced(module, "shuffle_sequence_dict", _in_order) if in_order else contextlib.nullcontext():
                return super()._prepare_inputs(generation_batch)

        def _generate_and_score_completions(self, inputs):
            later = self.use_vllm and self.model.training and _one_update_a_batch(self)
            now = self.vllm_importance_sampling_correction and not later
            with replaced(self, "vllm_importance_sampling_correction", now):
                output = super()._generate_and_score_completions(inputs)
            if self.model.training:
                first = len(output["prompt_ids"]) * self.accelerator.process_index
                places = torch.arange(first, first + len(output["prompt_ids"]))
                output["group"] = places // self.num_generations
                if _a_picture_a_row(output):
                    output |= _in_main_memory(output) | _features(self, output)
            return output

        def _compute_loss(self, model, inputs):
            with replaced(self, "_inputs", inputs):
                return super()._compute_loss(model, inputs)

        def _get_per_token_logps_and_entropies(self, model, *args, **kwargs):
            inputs = self._inputs
            if inputs is None or "group" not in inputs:
                return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
            if _a_picture_a_row(inputs) and not self._entropy_bonus_enabled:  # which asks for the entropies' gradient
                result = _packed(self, model, inputs, *args, **kwargs)
            else:
                result = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
            weighs = self.use_vllm and self.vllm_importance_sampling_correction
            if weighs and "importance_sampling_ratio" not in inputs:
                _weigh(self, result[0].detach(), inputs)
            return result

    return ScoringInGroups


def _a_picture_a_row(inputs: dict[str, Any]) -> bool:
    pictures = inputs.get("pixel_values")
    return pictures is not None and len(pictures) == len(inputs["group"])


def _in_main_memory(inputs: dict[str, Any]) -> dict[str, Any]:
    """`PACKED` and the advantages of a loss's inputs, copied to main memory if they are not there yet: once for all
    that was generated, for each copy waits for what is under way on the GPU.
    """
    import torch

    if HERE + "advantages" in inputs:
        return inputs
    joined = {"input_ids": "ids", "attention_mask": "mask"}
    found = {name: torch.cat([inputs[f"prompt_{of}"], inputs[f"completion_{of}"]], 1) for name, of in joined.items()}
    found |= {name: inputs[name] for name in (*PACKED, "advantages") if name not in joined}
    return {HERE + name: values.cpu() for name, values in found.items()}


def _features(trainer: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """`features` of what was generated, a row each, where the vision tower is frozen and whole on this device: a
    picture is looked at once, and not in every loss.
    """
    import torch
    from accelerate.utils import DistributedType

    if trainer.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        return {}
    groups, pixel_values = inputs["group"], inputs["pixel_values"]
    distinct, which = groups.unique(return_inverse=True)
    firsts = torch.searchsorted(groups, distinct)
    with trainer.accelerator.autocast():
        features = features_of(
            trainer.accelerator.unwrap_model(trainer.model), pixel_values[firsts.to(pixel_values.device)]
        )
    return {} if features is None else {"features": features[which.to(features.device)]}


def _packed(trainer: Any, model: Any, inputs: dict[str, Any], *_, **__) -> tuple:
    """What `_get_per_token_logps_and_entropies` gives, from `packed_log_probs`. Where rows are left out of the forward
    pass, the loss's inputs get `scored`, (completions,): those that are not.
    """
    import torch
    from trl.models.utils import _ForwardRedirection

    here, known = _in_main_memory(inputs), inputs.get("sampling_per_token_logps")
    advantages = here[HERE + "advantages"]
    learning = advantages != 0 if trainer.beta == 0 else advantages.isfinite()
    if trainer.beta != 0 or trainer.top_entropy_quantile < 1.0:
        known = None
    if known is not None:
        inputs["scored"] = learning.to(known.device, non_blocking=True)
    batch = {name: inputs[name] for name in PICTURES if name in inputs}
    batch |= {name: here[HERE + name] for name in PACKED}
    unwrapped = trainer.accelerator.unwrap_model(model)

    def log_probs_of(model: Any) -> tuple[Any, Any, None]:
        with trainer.accelerator.autocast():
            log_probs, entropies = packed_log_probs(
                model, batch, inputs["group"], learning, trainer.temperature, known=known, lengths=trainer.row_lengths
            )
        if torch.is_grad_enabled() and not log_probs.requires_grad:  # no group learns: a gradient of 0, as TRL's
            log_probs = log_probs + 0.0 * sum(p.sum() for p in model.parameters() if p.requires_grad)
        return log_probs, entropies, None

    if model is unwrapped:
        return log_probs_of(model)
    # Several processes: through the wrapper, which adds up their gradients.
    return _ForwardRedirection()(model, unwrapped, log_probs_of, unwrapped)


def _in_order(rows: dict[str, Any]) -> dict[str, Any]:
    """`shuffle_sequence_dict` of TRL, which takes as many random numbers, and leaves the rows where they are."""
    import torch

    torch.randperm(len(next(values for values in rows.values() if values is not None)))
    return rows


def _one_update_a_batch(trainer: Any) -> bool:
    """Whether all that is generated at once goes into one update."""
    return trainer.args.gradient_accumulation_steps % (trainer.args.steps_per_generation * trainer.num_iterations) == 0


@functools.cache
def listening_trainer_class() -> type:
    """`GRPOTrainer` that keeps the log-probs of its last loss: `logps`, (completions, tokens), without a graph."""
    from trl import GRPOTrainer

    class ListeningTrainer(GRPOTrainer):
        def _get_per_token_logps_and_entropies(self, model, *args, **kwargs):
            result = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
            self.logps = result[0].detach()
            return result

    return ListeningTrainer


def loss_inputs(inputs: dict[str, Any], ids_NT: Any, mask_NT: Any, advantages_N: Any) -> dict[str, Any]:
    """What `GRPOTrainer._compute_loss` takes, from what `policy.completions_as_inputs` gives."""
    whole, N, T = ("input_ids", "attention_mask"), *ids_NT.shape
    return {key: value for key, value in inputs.items() if key not in whole} | {
        "prompt_ids": inputs["input_ids"][:, :-T], "prompt_mask": inputs["attention_mask"][:, :-T],
        "completion_ids": ids_NT, "completion_mask": mask_NT, "advantages": advantages_N,
        "num_items_in_batch": mask_NT.sum(), "num_images": [1] * N,
    }  # fmt: skip


@contextlib.contextmanager
def without_a_trace(trainer: Any) -> Iterator[None]:
    """Inside, losses may be computed that stand in no metric and draw nothing from the sampling's random numbers."""
    import torch

    kept = copy.deepcopy(trainer._metrics)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        trainer._metrics = kept


def generating_with(engine: Engine) -> contextlib.AbstractContextManager:
    """Inside, a `GRPOTrainer` that is built takes `engine` for its colocated vLLM instead of starting its own."""
    import trl.trainer.grpo_trainer as module

    return replaced(module, "VLLMGeneration", generation_class(engine))


def generation_class(engine: Engine) -> type:
    """TRL's interface to vLLM over an engine that is already there."""
    from trl.generation.vllm_generation import VLLMGeneration

    class AdapterOnlyGeneration(VLLMGeneration):
        def _init_vllm(self) -> None:
            self.llm = engine.llm

        def sync_weights(self) -> None:
            engine.take_adapter(self.accelerator.unwrap_model(self.model))

        def generate(self, prompts, images, num_generations, profiler=None):
            group = num_generations if _repeats(prompts, num_generations) else 1
            pictures = None if images is None else [row[0] if row else None for row in images[::group]]
            sampling = {name: getattr(self, name) for name in ("temperature", "top_p", "top_k", "repetition_penalty")}
            sampling |= {"min_p": self.min_p or 0.0, "max_tokens": self.max_completion_length, **self.generation_kwargs}
            with profiler or contextlib.nullcontext():
                ids, logps = engine.generate(prompts[::group], pictures, n=group, **sampling)
            alone = [[[[value] for value in row] for row in rows] for rows in (logps, ids)]  # one candidate per token
            return prompts, ids, *alone

    return AdapterOnlyGeneration


def _repeats(prompts: Sequence[list[int]], group: int) -> bool:
    """Whether `prompts` are groups of `group` equal prompts in a row, as TRL's sampler lays them out."""
    return len(prompts) % group == 0 and all(
        prompts[start] == prompts[start + place] for start in range(0, len(prompts), group) for place in range(1, group)
    )


def log_probs_in_chunks(trainer: Any) -> None:
    """Let TRL take the log-probs without ever holding all logits, whose (tokens, 262208) matrix and copies are 6 GiB
    for four completions of 512 tokens: exact, a little slower, and for where memory is short.

    TRL 1.14.2 offers it as `use_liger_kernel`, which asks for the package liger-kernel, replaces parts of the model,
    and needs none of that for this (`GRPOTrainer._chunked_logps`). It is switched on here after the trainer is built.
    """
    from trl.models.utils import _ForwardRedirection

    trainer.use_liger_kernel = True
    trainer._forward_redirection = _ForwardRedirection()


def _weigh(trainer: Any, logps: Any, inputs: dict[str, Any]) -> None:
    """Put the importance weights into the loss's inputs, and into the metrics what TRL logs about them. A row that the
    loss left out (`scored`) has the weight 1 and stands in no metric.
    """
    import torch

    mask = inputs["completion_mask"]
    if "scored" in inputs:
        mask = mask * inputs["scored"][:, None]
    ratio, gaps = importance_weights(
        logps, inputs["sampling_per_token_logps"], mask, mode=trainer.vllm_importance_sampling_mode,
        low=trainer.vllm_importance_sampling_clip_min, high=trainer.vllm_importance_sampling_clip_max,
    )  # fmt: skip
    inputs["importance_sampling_ratio"] = ratio
    weights = ratio.flatten() if ratio.shape[1] == 1 else ratio[mask.bool()]
    _log_over_processes(trainer, "sampling/sampling_logp_difference/mean", gaps, torch.mean)
    _log_over_processes(trainer, "sampling/sampling_logp_difference/max", gaps, torch.max)
    _log_over_processes(trainer, "sampling/importance_sampling_ratio/mean", weights, torch.mean)


def _log_over_processes(trainer: Any, name: str, values: Any, summary: Callable[[Any], Any]) -> None:
    """The summary of the summaries of all processes that have any values."""
    import torch

    own = summary(values) if len(values) else torch.full((), torch.nan, device=values.device)
    every = trainer.accelerator.gather(own)
    if len(known := every[~every.isnan()]):
        trainer._metrics["train"][name].append(summary(known).item())


def importance_weights(
    logps: Any, sampling_logps: Any, mask: Any, *, mode: str, low: float | None, high: float | None
) -> tuple[Any, Any]:
    """TRL's correction for sampling with vLLM (`GRPOTrainer._generate_and_score_completions`, 1.14.2).

    Args:
        logps, sampling_logps, mask: (completions, tokens).
        mode: token_truncate, token_mask, sequence_truncate or sequence_mask.

    Returns:
        The weights, (completions, tokens) or (completions, 1), and the absolute log-prob gaps of the tokens under the
        mask.
    """
    import torch

    raw = logps - sampling_logps
    difference = torch.nan_to_num(raw * mask, nan=0.0)
    if mode.startswith("sequence"):
        difference = difference.sum(dim=-1, keepdim=True)
    ratio = torch.exp(difference)
    bounds = (-torch.inf if low is None else low, torch.inf if high is None else high)
    inside = ratio.clamp(*bounds)
    ratio = inside if mode.endswith("truncate") else ratio.masked_fill(ratio != inside, 0.0)
    return ratio, raw.abs()[mask.bool() & ~torch.isnan(raw)]
