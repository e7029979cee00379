"""One picture is looked at once, and nothing but the time changes."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from PIL import Image

from nbhelpers.training import vision_cache
from nbhelpers.training.vision_cache import FrozenVisionCache, PreparedPictures, VisionCacheError

IMAGE_TOKEN = 60


@pytest.fixture
def model():
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    torch.manual_seed(0)
    config = Gemma3Config(
        text_config={
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 64,
            "max_position_embeddings": 128,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "vision_use_head": False,
        },
        mm_tokens_per_image=4,
        image_token_index=IMAGE_TOKEN,
        boi_token_index=61,
        eoi_token_index=62,
    )
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.2)
    return model.requires_grad_(False)


def with_adapter(model):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    return get_peft_model(
        model,
        LoraConfig(r=4, target_modules=r".*language_model\..*\.(q_proj|v_proj|down_proj)", init_lora_weights=False),
    )


def batch(pictures, repeats):
    """`pictures` different pictures, each `repeats` times in a row, as GRPO repeats a prompt."""
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(pictures, 3, 32, 32, generator=generator).repeat_interleave(repeats, dim=0)
    rows = pictures * repeats
    ids = torch.randint(1, 50, (rows, 12), generator=generator)
    ids[:, 1:5] = IMAGE_TOKEN
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels,
        "token_type_ids": (ids == IMAGE_TOKEN).long(),
    }


@contextlib.contextmanager
def counted_tower(model):
    """Numbers of pictures in each call of the vision tower."""
    calls = []
    tower = next(module for name, module in model.named_modules() if name.endswith("vision_tower"))
    hook = tower.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    yield calls
    hook.remove()


def loss_and_gradients(model, inputs):
    model.zero_grad()
    logits = model(**inputs).logits
    loss = torch.log_softmax(logits[:, :-1], -1).gather(-1, inputs["input_ids"][:, 1:, None]).mean()
    loss.backward()
    return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_logits_and_gradients_are_those_without_the_cache(model, checkpointing):
    model = with_adapter(model)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    inputs = batch(pictures=3, repeats=4)
    logits, gradients = loss_and_gradients(model, inputs)

    cache = FrozenVisionCache(model)
    for _ in range(2):
        cached_logits, cached_gradients = loss_and_gradients(model, inputs)
        torch.testing.assert_close(cached_logits, logits)
        assert gradients and cached_gradients.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(cached_gradients[name], gradient, msg=name)
    cache.detach()


def test_each_picture_goes_through_the_tower_once(model):
    model = with_adapter(model)
    cache = FrozenVisionCache(model)
    with counted_tower(model) as calls, torch.no_grad():
        model(**batch(pictures=3, repeats=4))
        model(**batch(pictures=3, repeats=4))
    assert calls == [3]
    cache.detach()


def test_detaching_gives_the_tower_back(model):
    cache = FrozenVisionCache(model)
    cache.detach()
    with counted_tower(model) as calls, torch.no_grad():
        model(**batch(pictures=2, repeats=2))
    assert calls == [4]


def test_pictures_that_differ_in_one_bit_are_different(model):
    pixels = torch.randn(1, 3, 32, 32)
    near = pixels.clone()
    near[0, 2, 31, 31] = torch.nextafter(near[0, 2, 31, 31], torch.tensor(9.0))
    cache = FrozenVisionCache(model)
    with counted_tower(model) as calls:
        cache._get_image_features(torch.cat([pixels, near]))
    assert calls == [2]


def test_the_cache_is_bounded_and_serves_a_batch_larger_than_itself(model):
    inputs = batch(pictures=5, repeats=2)
    with torch.no_grad():
        logits = model(**inputs).logits
        cache = FrozenVisionCache(model, max_pictures=2)
        torch.testing.assert_close(model(**inputs).logits, logits)
    assert len(cache._features) == 2


def test_features_first_seen_in_inference_mode_serve_a_later_backward_pass(model):
    model = with_adapter(model)
    inputs = batch(pictures=2, repeats=2)
    FrozenVisionCache(model)
    with torch.inference_mode():
        model(**inputs)
    _, gradients = loss_and_gradients(model, inputs)
    assert any(gradient.abs().sum() > 0 for gradient in gradients.values())


def test_autocast_features_are_kept_apart_from_full_precision_ones(model):
    FrozenVisionCache(model)
    inputs = batch(pictures=1, repeats=1)
    with counted_tower(model) as calls, torch.no_grad():
        model(**inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(**inputs)
    assert calls == [1, 1]


def test_a_trained_tower_is_refused_by_name(model):
    from peft import LoraConfig, get_peft_model

    trained = get_peft_model(model, LoraConfig(r=2, target_modules=r".*vision_tower\..*\.fc1"))
    with pytest.raises(VisionCacheError, match="finetune_vision_layers=false"):
        FrozenVisionCache(trained)


def test_a_model_without_vision_is_refused():
    with pytest.raises(VisionCacheError, match="no vision tower"):
        FrozenVisionCache(torch.nn.Linear(2, 2))


class TestPreparedPictures:
    @pytest.fixture
    def looked_at(self):
        """Numbers of pictures in each call of the image processor itself."""
        return []

    @pytest.fixture
    def image_processor(self, looked_at):
        from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

        class Counted(Gemma3ImageProcessorPil):
            def preprocess(self, images, **kwargs):
                looked_at.append(len(images))
                return super().preprocess(images, **kwargs)

        return Counted(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)

    @pytest.fixture
    def processor(self, image_processor):
        from types import SimpleNamespace

        return SimpleNamespace(image_processor=image_processor)

    @pytest.fixture
    def pictures(self):
        rng = np.random.default_rng(0)
        return [Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)) for _ in range(3)]

    @pytest.mark.parametrize("options", [{}, {"return_tensors": "pt"}])
    def test_the_pixels_are_those_of_the_image_processor(self, processor, pictures, options, looked_at):
        rows = [[picture.copy()] for picture in pictures for _ in range(4)]
        expected = processor.image_processor(images=rows, **options)
        PreparedPictures(processor)
        for _ in range(2):
            got = processor.image_processor(images=rows, **options)
            assert got.keys() == expected.keys() and type(got["pixel_values"]) is type(expected["pixel_values"])
            np.testing.assert_array_equal(np.asarray(got["pixel_values"]), np.asarray(expected["pixel_values"]))
            assert list(got["num_crops"]) == list(expected["num_crops"])
        assert looked_at == [12, 3]

    def test_tokens_and_tensors_ask_for_the_same_picture(self, processor, pictures, looked_at):
        """TRL 1.14.2 prepares a step's pictures twice, first to tokenize the prompts."""
        PreparedPictures(processor)
        processor.image_processor(images=pictures)
        processor.image_processor(images=pictures, return_tensors="pt")
        assert looked_at == [3]

    def test_pan_and_scan_is_left_to_the_image_processor(self, processor, looked_at):
        wide = Image.new("RGB", (900, 300))
        options = {
            "do_pan_and_scan": True,
            "pan_and_scan_min_crop_size": 64,
            "pan_and_scan_max_num_crops": 3,
            "pan_and_scan_min_ratio_to_activate": 1.2,
            "return_tensors": "pt",
        }
        expected = processor.image_processor(images=[[wide]], **options)["pixel_values"].shape
        PreparedPictures(processor)
        assert processor.image_processor(images=[[wide]], **options)["pixel_values"].shape == expected
        assert expected[0] > 1 and looked_at == [1, 1]

    def test_a_saved_processor_does_not_know_of_the_cache(self, image_processor, processor, tmp_path):
        image_processor.save_pretrained(tmp_path / "before")
        PreparedPictures(processor)
        image_processor.save_pretrained(tmp_path / "after")
        saved = [next((tmp_path / folder).glob("*.json")).read_text() for folder in ("before", "after")]
        assert saved[0] == saved[1]

    def test_a_group_that_shares_its_picture_is_looked_at_once(self, processor, pictures, looked_at, monkeypatch):
        looked = []
        original = vision_cache._fingerprint
        monkeypatch.setattr(vision_cache, "_fingerprint", lambda picture: looked.append(picture) or original(picture))
        prepared = PreparedPictures(processor)
        processor.image_processor(
            images=[[pictures[0]], [pictures[1]], [pictures[0]], [pictures[1]]], return_tensors="pt"
        )
        assert len(looked) == 2 and looked_at == [2]
        prepared.detach()

    def test_a_batch_is_put_together_where_the_policy_is(self, processor, pictures, monkeypatch):
        moved, original = [], torch.Tensor.to
        monkeypatch.setattr(torch.Tensor, "to", lambda self, *to, **how: moved.append(to) or original(self, *to, **how))
        prepared = PreparedPictures(processor, device="meta")
        rows = [[picture] for picture in pictures for _ in range(4)]
        made = processor.image_processor(images=rows, return_tensors="pt")["pixel_values"]
        assert made.shape == (12, 3, 32, 32) and made.device.type == "meta"
        assert moved.count(("meta",)) == 2 * len(pictures)  # pixels and the number of crops
        prepared.detach()

    def test_the_cache_is_bounded_and_can_be_detached(self, processor, pictures, looked_at):
        prepared = PreparedPictures(processor, max_pictures=1)
        processor.image_processor(images=[[picture] for picture in pictures])
        assert len(prepared._prepared) == 1
        prepared.detach()
        processor.image_processor(images=[[pictures[0]]])
        assert looked_at == [3, 1] and not prepared._prepared
