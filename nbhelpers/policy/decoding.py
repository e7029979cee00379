"""Generation with transformers, a group at a time: what a group shares is computed once, and what has ended is dropped.

* A prompt with its picture goes through the model once; its keys and values are repeated for the group's completions.
* A completion that has ended leaves the batch.
* Chance comes from `draws`, a number per token and completion, so that a completion does not depend on what else is in
  its batch, nor on how many processes share the prompts.
* The adapter is added to the weights beforehand, where that rounds nothing away: `merged_adapter`.

All are exact but for float noise (`tests/benchmarks/bench_cpu_step.py` has what each brings) and hold where
`Policy.decodes_in_groups` says so.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import Any

from nbhelpers.policy.patching import replaced


def draws(seed: int, places: Iterable[int], group: int, tokens: int, *, step: int = 0) -> Any:
    """What chance decides: numbers from 0 to 1, (prompts * group, tokens), float64, on the CPU.

    Args:
        places: of the prompts among all that are sampled in this step, in whatever process; a prompt's numbers depend
            on its place, `seed` and `step` alone.
    """
    import numpy as np
    import torch

    rows = [np.random.default_rng([seed, step, place]).random((group, tokens)) for place in places]
    return torch.from_numpy(np.concatenate(rows))


def generate_groups(model: Any, inputs: dict[str, Any], group: int, drawn: Any = None, **options: Any) -> Any:
    """`model.generate` with `group` completions of each of N prompts.

    Args:
        inputs: of N prompts padded on the left, as `Policy.inputs` gives them.
        drawn: from `draws`, where it samples; None takes torch's generator.
        options: what `generate` takes besides: a `generation_config`, or fields of one.

    Returns:
        Token ids (N * group, prompt + completion): the completions of a prompt in a row, padded behind their ends.
    """
    with merged_adapter(model):
        return model.generate(**inputs, **options, custom_generate=_decode, group=group, drawn=drawn)


@contextlib.contextmanager
def in_groups(model: Any, group: int, drawn: Any = None) -> Iterator[None]:
    """Inside, `model.generate(**inputs, generation_config=...)` takes rows that repeat each prompt `group` times, as
    TRL lays them out, and is `generate_groups` on one row of each. Rows that do not repeat are groups of one.

    Args:
        drawn: from `draws`, a row for each row of the inputs; None takes torch's generator.
    """
    generate = model.generate

    def generate_once(generation_config: Any, **inputs: Any) -> Any:
        once = {name: values[::group] for name, values in inputs.items()}
        repeated = all(values.equal(once[name].repeat_interleave(group, dim=0)) for name, values in inputs.items())
        prompts, size = (once, group) if repeated else (inputs, 1)
        with replaced(model, "generate", generate):
            if (generation_config.num_beams or 1) > 1:  # by a person's `training.grpo.generation_kwargs`
                return model.generate(**inputs, generation_config=generation_config)
            return generate_groups(model, prompts, size, drawn, generation_config=generation_config)

    with replaced(model, "generate", generate_once):
        yield


def _decode(
    model: Any, input_ids: Any, logits_processor: Any, stopping_criteria: Any, generation_config: Any, group: int,
    drawn: Any, **inputs: Any,
) -> Any:  # fmt: skip
    """The decoding loop of `generate` (its `custom_generate`): plain sampling or greedy, a batch that shrinks."""
    import torch

    first = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **inputs)
    output = model(**first, return_dict=True)
    cache, logits = output.past_key_values, output.logits[:, -1].repeat_interleave(group, dim=0)
    cache.batch_repeat_interleave(group)
    ids, mask, place = (
        values.repeat_interleave(group, dim=0)
        for values in (input_ids, inputs["attention_mask"], inputs["position_ids"][:, -1:])
    )
    prompts, rows = ids, torch.arange(len(ids), device=ids.device)
    written = ids.new_full((len(ids), stopping_criteria.max_length - ids.shape[1]), generation_config.pad_token_id)
    if drawn is None:
        drawn = torch.rand(written.shape, dtype=torch.float64)
    drawn = drawn.to(ids.device)
    for step in range(written.shape[1]):
        scores = logits_processor(ids, logits.float())
        sampled = generation_config.do_sample
        tokens = _pick(scores, drawn[rows, step]) if sampled else scores.argmax(dim=-1, keepdim=True)
        written[rows, step] = tokens[:, 0]
        ids, mask, place = torch.cat([ids, tokens], dim=1), torch.cat([mask, mask.new_ones(tokens.shape)], 1), place + 1
        going_on = (~stopping_criteria(ids, None)).nonzero()[:, 0]
        if not len(going_on):
            break
        if len(going_on) < len(ids):
            cache.batch_select_indices(going_on)
            rows, ids, mask, place = (values[going_on] for values in (rows, ids, mask, place))
        output = model(
            input_ids=ids[:, -1:], attention_mask=mask, position_ids=place, past_key_values=cache, use_cache=True
        )
        logits = output.logits[:, -1]
    return torch.cat([prompts, written[:, : step + 1]], dim=1)


def _pick(scores: Any, drawn: Any) -> Any:
    """The tokens (rows, 1) at which the summed probabilities pass what was drawn for each row."""
    import torch

    sums = scores.softmax(dim=-1).double().cumsum(dim=-1)
    # Never a token of probability 0: `right` steps over those, and what was drawn is below 1.
    found = torch.searchsorted(sums, drawn.unsqueeze(-1) * sums[:, -1:], right=True)
    return found.clamp(max=sums.shape[-1] - 1)


@contextlib.contextmanager
def merged_adapter(model: Any) -> Iterator[None]:
    """Inside, an adapted layer is one matrix product, x (W + BA)^T, instead of three; W itself is not touched.

    Only where the sum is exact but for float noise: in float32 (bfloat16 would round an early adapter away), over plain
    weights (4-bit ones have to be unpacked), without dropout at work. Other layers stay as they are. Gradients reach A
    and B through the sum.
    """
    import torch

    with contextlib.ExitStack() as layers:
        for layer in filter(_is_plain_lora, model.modules()):
            base = layer.get_base_layer()
            names = [] if layer.disable_adapters else [n for n in layer.active_adapters if n in layer.lora_A]
            weight = sum((layer.get_delta_weight(name) for name in names), base.weight)
            merged = functools.partial(torch.nn.functional.linear, weight=weight, bias=base.bias)
            layers.enter_context(replaced(layer, "forward", merged))
        yield


def _is_plain_lora(layer: Any) -> bool:
    import torch
    from peft.tuners.lora import Linear

    if type(layer) is not Linear or layer.merged or layer.lora_variant or any(layer.lora_bias.values()):
        return False
    drops = layer.training and not all(isinstance(one, torch.nn.Identity) for one in layer.lora_dropout.values())
    return layer.get_base_layer().weight.dtype == torch.float32 and not drops
