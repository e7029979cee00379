"""The policy: loading it, sampling from it, saving and exporting it, what it takes of memory."""

from nbhelpers.policy.adapter import adapter_norm, trainable_parameters, weights_digests
from nbhelpers.policy.decoding import draws, in_groups, merged_adapter
from nbhelpers.policy.loading import (
    choose_backend,
    flaw_of_checkpoint,
    has_bfloat16,
    import_libraries,
    libraries,
    load_final_model,
    load_policy,
    load_processor,
    needs_gpu,
)
from nbhelpers.policy.memory import (
    GIB,
    better_backend,
    fits,
    memory_estimate,
    packed_activations,
    packed_tokens,
    parameter_count,
    ways_to_fit,
)
from nbhelpers.policy.mends import keep_adapter_in_float32, never_sampled_ids
from nbhelpers.policy.patching import override, replaced
from nbhelpers.policy.policy import Completion, Policy, PolicyError
from nbhelpers.policy.predicting import first_that_fit, grade_row, predict, which_fit
from nbhelpers.policy.processes import end_group, environment_apart, with_last_lines
from nbhelpers.policy.saving import export_final_model, load_weights, save_final_model
from nbhelpers.policy.scoring import completions_as_inputs, in_half, short_of_memory, with_little_memory, word_numbers
from nbhelpers.policy.vllm.engine import Engine, serve, start_engine
from nbhelpers.policy.vllm.parity import verify
