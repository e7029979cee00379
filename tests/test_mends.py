"""Each mend of `nbhelpers.mends`, and for each a test that fails once the library no longer needs it."""

from __future__ import annotations

import copy

import pytest

from nbhelpers import data, mends
from nbhelpers.params import RewardParams
from nbhelpers.problems.drawn import make_problems


@pytest.fixture
def problem():
    return make_problems(1, seed=5)[0]


def second_pass_ids(processor, problem):
    """The ids as TRL 1.14.2 makes them for the loss: the rendered prompt, tokenised again with special tokens."""
    text = processor.apply_chat_template(data.conversation(problem, RewardParams()), tokenize=False, add_generation_prompt=True)
    return processor(images=[[problem["image"]]], text=[text], return_tensors="pt")["input_ids"][0].tolist()


def first_pass_ids(processor, problem):
    """The ids that the policy generates from."""
    conversation = copy.deepcopy(data.conversation(problem, RewardParams()))
    next(part for part in conversation[0]["content"] if part["type"] == "image")["image"] = problem["image"]
    return processor.apply_chat_template([conversation], tokenize=True, return_dict=True, add_generation_prompt=True)["input_ids"][0]


def test_with_the_mend_the_loss_sees_the_tokens_that_were_generated_from(embedded_policy, problem):
    processor = copy.deepcopy(embedded_policy.processor)
    mends.keep_one_bos(processor)
    assert second_pass_ids(processor, problem) == list(first_pass_ids(processor, problem))


def test_without_the_mend_there_are_still_two_bos(embedded_policy, problem):
    """When this fails, transformers or TRL have mended it and `keep_one_bos` can go."""
    processor = copy.deepcopy(embedded_policy.processor)
    mends.restore_bos(processor)
    bos = processor.tokenizer.bos_token_id
    assert second_pass_ids(processor, problem)[:2] == [bos, bos]


def test_trl_still_tokenises_the_rendered_prompt_with_special_tokens():
    """The line of TRL that `keep_one_bos` is for; when it is gone, so can be the mend."""
    import inspect

    from trl import GRPOTrainer

    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert 'self.processing_class(images=images, text=prompts_text, padding=True, return_tensors="pt")' in source


def test_both_ends_of_a_turn_stop_a_completion(embedded_policy):
    tokenizer = embedded_policy.processor.tokenizer
    ids = mends.end_of_turn_ids(embedded_policy.processor, embedded_policy.model)
    assert {tokenizer.convert_tokens_to_ids("<eos>"), tokenizer.convert_tokens_to_ids("<end_of_turn>")} <= set(ids)
    assert embedded_policy.model.generation_config.eos_token_id == ids


def test_the_image_placeholder_is_never_sampled(embedded_policy):
    tokenizer = embedded_policy.processor.tokenizer
    assert mends.never_sampled_ids(embedded_policy.processor) == [tokenizer.convert_tokens_to_ids("<image_soft_token>")]


def test_trl_still_leaves_the_image_placeholder_to_generation_kwargs():
    """When TRL suppresses it by itself, `never_sampled_ids` can go."""
    import inspect

    from trl import GRPOTrainer

    assert "suppress_tokens" not in inspect.getsource(GRPOTrainer.__init__)


@pytest.fixture
def quantised_trainer(tmp_path):
    """A GRPOTrainer whose model says that it is quantised, which is all that TRL asks."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from nbhelpers.params import RunParams
    from nbhelpers.policy import load_policy

    params = RunParams.load("smoke")
    policy = load_policy(params.model, params.lora)
    policy.model.get_base_model().is_loaded_in_4bit = True
    return GRPOTrainer(
        model=policy.model, processing_class=policy.processor, reward_funcs=lambda completions, **_: [0.0] * len(completions),
        train_dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": "?"}]]}),
        args=GRPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=2, num_generations=2, bf16=False, report_to="none"),
    )


def trained_types(model):
    return {str(parameter.dtype) for parameter in model.parameters() if parameter.requires_grad}


def test_trl_still_rounds_the_adapter_of_a_quantised_model(quantised_trainer):
    """When this fails, TRL has mended it and `keep_adapter_in_float32` can go."""
    assert trained_types(quantised_trainer.model) == {"torch.bfloat16"}


def test_with_the_mend_the_adapter_moves_by_the_learning_rate(quantised_trainer):
    import torch

    mends.keep_adapter_in_float32(quantised_trainer.model)
    assert trained_types(quantised_trainer.model) == {"torch.float32"}
    name, matrix = next((n, p) for n, p in quantised_trainer.model.named_parameters() if "lora_A" in n)
    before = matrix.detach().clone()
    quantised_trainer.create_optimizer()
    matrix.grad = torch.ones_like(matrix)
    for group in quantised_trainer.optimizer.param_groups:
        group["lr"] = 5e-6
    quantised_trainer.optimizer.step()
    assert (before - matrix.detach()).mean().item() == pytest.approx(5e-6, rel=0.05), name
