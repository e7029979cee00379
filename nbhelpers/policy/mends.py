"""Mends for faults of the libraries, each in one place, each with a test in `tests/test_mends.py` that says when it can
go.

A mend is applied to an object (a processor, a generation configuration) and changes nothing else.
"""

from __future__ import annotations

from typing import Any


def keep_one_bos(processor: Any) -> None:
    """Stop the tokenizer from adding a second `<bos>` to text that already went through the chat template.

    TRL's GRPO renders the prompt with the chat template, whose text starts with `<bos>`, and tokenises that text
    once more for the loss without `add_special_tokens=False` (`GRPOTrainer._generate_and_score_completions`, seen in
    1.14.2 and 1.16.0). `input_ids` come from the first pass, `token_type_ids` from the second: one too long, so
    the picture's bidirectional attention is shifted by a token. Nothing fails; the log-probs are wrong by 0.0095
    on average and by 0.72 at most. The setter has to run even where the attribute already reads False: it is what
    rebuilds the tokenizer's post-processor.
    """
    processor.tokenizer.add_bos_token = False


def restore_bos(processor: Any) -> None:
    """Undo `keep_one_bos`, so that a saved tokenizer is the one that was loaded."""
    processor.tokenizer.add_bos_token = True


def end_of_turn_ids(processor: Any, model: Any) -> list[int]:
    """Every token id that ends a completion, `<end_of_turn>` among them; also written to the generation config.

    Gemma-3 ends its turn with `<end_of_turn>`, while `tokenizer.eos_token` of some copies is `<eos>`. Where
    generation stops on `<eos>` alone, each completion runs on to its limit and looks truncated.
    """
    tokenizer = processor.tokenizer
    configured = model.generation_config.eos_token_id
    ids = set(configured if isinstance(configured, (list, tuple)) else [configured]) - {None}
    ids |= {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<eos>")}
    ids.add(tokenizer.convert_tokens_to_ids("<end_of_turn>"))
    ids -= {None, tokenizer.unk_token_id}
    model.generation_config.eos_token_id = sorted(ids)
    model.config.eos_token_id = tokenizer.eos_token_id  # what transformers' Trainer would set too, with a warning
    return sorted(ids)


def never_sampled_ids(processor: Any) -> list[int]:
    """Token ids that no completion may hold: the placeholder of image features.

    A policy that samples `<image_soft_token>` makes the loss forward fail, as there are then more placeholders
    than image features. TRL leaves it to `generation_kwargs` up to 1.15.
    """
    return [processor.tokenizer.image_token_id]  # `processor.image_token_id` is that of <start_of_image>


def keep_adapter_in_float32(model: Any) -> None:
    """Give the adapter of a 4-bit model its float32 back, once the trainer is built and before it makes its optimiser.

    TRL 1.14.2 turns the adapter of a quantised model into bfloat16 (`GRPOTrainer.__init__`). A step of 5e-6 is less
    than half of the distance between two bfloat16 numbers near 0.01, where LoRA's A starts: A never moves, and B stops
    moving at about 0.001. Nothing fails.
    """
    import torch

    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype == torch.bfloat16:
            parameter.data = parameter.data.float()
