"""Each mend of `nbhelpers.mends`, and for each a test that fails once the library no longer needs it."""

from __future__ import annotations

import copy

import pytest

from nbhelpers import data, mends
from nbhelpers.params import RewardParams
from nbhelpers.visual_math import make_problems


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
