"""Look at one picture once: GRPO shows the same picture `num_generations` times in every forward.

Two caches, both exact and bounded. `FrozenVisionCache` keeps what the frozen vision tower and projector say about a
picture, through sampling, log-probs, loss and later epochs. `PreparedPictures` keeps what the image processor makes of
a picture, which TRL asks for twice a completion (once for the prompt, once for the loss;
`GRPOTrainer._tokenize_prompts` and `_generate_and_score_completions`).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any


class VisionCacheError(RuntimeError):
    """The vision features must not be kept, because training changes them."""


class FrozenVisionCache:
    """Keeps the image features of the last `max_pictures` pictures, keyed by their pixels, on the device that computed
    them.

    Replaces `get_image_features` of the one `Gemma3Model` inside `model` (wrapped by PEFT or not) until `detach()`. The
    features carry no graph: nothing before them is trained, and that is checked when the cache is attached.

    Args:
        model: Gemma-3 with vision; its vision tower and projector must be frozen.
        max_pictures: bound of the cache; a picture of Gemma-3 4B takes 256 x 2560 bfloat16 = 1.3 MB.

    Attributes:
        seen: pictures asked for so far. computed: pictures that went through the tower.

    Raises:
        VisionCacheError: the model has no vision tower, or a parameter of the tower or the projector is trained.
    """

    def __init__(self, model: Any, max_pictures: int = 256):
        self.max_pictures = max_pictures
        self.seen = self.computed = 0
        self._features: OrderedDict[tuple, Any] = OrderedDict()
        self._weights: dict[tuple, Any] = {}
        self._module = _vision_module(model)
        trained = [
            name
            for name, parameter in self._module.named_parameters()
            if parameter.requires_grad and name.split(".")[0] in ("vision_tower", "multi_modal_projector")
        ]
        if trained:
            raise VisionCacheError(
                f"the vision features cannot be kept: {len(trained)} parameters of the vision tower or projector are trained, the "
                f"first is {trained[0]}. Set lora.finetune_vision_layers=false, or train without the cache."
            )
        self._compute = self._module.get_image_features
        self._module.get_image_features = self._get_image_features

    def detach(self) -> None:
        """Give the model its own `get_image_features` back and forget the features."""
        self._module.__dict__.pop("get_image_features", None)
        self._features.clear()
        self._weights.clear()

    def _get_image_features(self, pixel_values: Any, **kwargs: Any) -> Any:
        """`Gemma3Model.get_image_features`: (pictures, 3, height, width) to an output whose `pooler_output` is
        (pictures, image tokens, hidden). `last_hidden_state` is None: Gemma-3's forward does not read it."""
        import torch
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        # Features made under inference_mode could not be saved for a later backward pass.
        with torch.inference_mode(False), torch.no_grad():
            keys = self._keys(pixel_values)
            missing = {key: place for place, key in enumerate(keys) if key not in self._features}
            if missing:
                places = torch.tensor(list(missing.values()), device=pixel_values.device)
                fresh = self._compute(pixel_values.index_select(0, places), **kwargs).pooler_output
                for key, features in zip(missing, fresh, strict=True):
                    self._features[key] = features.clone()
            for key in keys:
                self._features.move_to_end(key)
            features = torch.stack([self._features[key] for key in keys])
            while len(self._features) > self.max_pictures:
                self._features.popitem(last=False)
        self.seen += len(keys)
        self.computed += len(missing)
        return BaseModelOutputWithPooling(last_hidden_state=None, pooler_output=features)

    def _keys(self, pixel_values: Any) -> list[tuple]:
        """One key a picture: two random linear forms of its bits modulo 2^64, taken where the pixels lie.

        Two different pictures share a key with a probability around 2^-64; copying the pixels to the CPU to hash them
        costs more than it gives.
        """
        import torch

        flat = pixel_values.detach().contiguous().reshape(pixel_values.shape[0], -1)
        bits = flat.view(torch.int32 if flat.element_size() == 4 else torch.int16)
        where = (bits.shape[1], bits.device)
        if where not in self._weights:
            generator = torch.Generator().manual_seed(20260101)
            drawn = torch.randint(-(2**62), 2**62, (2, bits.shape[1]), generator=generator, dtype=torch.int64)
            self._weights = {where: drawn.to(bits.device)}
        weights = self._weights[where]
        sums = torch.stack([(picture.to(torch.int64) * weights).sum(dim=1) for picture in bits])
        # Under autocast the same weights give features of another precision.
        precision = (
            torch.get_autocast_dtype(flat.device.type) if torch.is_autocast_enabled(flat.device.type) else None,
            flat.dtype,
        )
        return [
            (first, second, tuple(pixel_values.shape[1:]), flat.device, precision) for first, second in sums.tolist()
        ]


def _vision_module(model: Any) -> Any:
    """The module inside `model` that owns the vision tower, the projector and `get_image_features`."""
    for module in model.modules():
        parts = module._modules
        if "vision_tower" in parts and "multi_modal_projector" in parts and hasattr(module, "get_image_features"):
            return module
    raise VisionCacheError(
        f"{type(model).__name__} has no vision tower with a projector: there are no vision features to keep."
    )


class PreparedPictures:
    """Keeps what the image processor made of the last `max_pictures` pictures, keyed by their content.

    Until `detach()`, `processor.image_processor` has a class of the same name whose `preprocess` asks the cache first
    (an attribute of the object would end up in the saved processor_config.json). Only the plain case is answered from
    the cache, one PIL picture a prompt; anything else goes to the image processor as it came.

    Args:
        processor: `Gemma3Processor`.
        max_pictures: bound of the cache; a picture of Gemma-3 4B takes 3 x 896 x 896 float32 = 9.6 MB of main memory.
    """

    def __init__(self, processor: Any, max_pictures: int = 32):
        self.max_pictures = max_pictures
        self.seen = self.computed = 0
        self._prepared: OrderedDict[tuple, dict[str, Any]] = OrderedDict()
        self._image_processor = processor.image_processor
        self._class = type(self._image_processor)
        self._preprocess = self._image_processor.preprocess

        def preprocess(_, images: Any, *args: Any, **kwargs: Any) -> Any:
            return self._cached(images, *args, **kwargs)

        members = {"preprocess": preprocess, "__module__": self._class.__module__}
        self._image_processor.__class__ = type(self._class.__name__, (self._class,), members)

    def detach(self) -> None:
        """Give the image processor its own `preprocess` back and forget the pictures."""
        self._image_processor.__class__ = self._class
        self._prepared.clear()

    def _cached(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        import torch
        from transformers.image_processing_utils import BatchFeature

        pictures = _flat(images)
        if pictures is None or args or kwargs.get("do_pan_and_scan"):
            return self._preprocess(images, *args, **kwargs)
        options = repr(sorted((key, repr(value)) for key, value in kwargs.items()))
        # A group's completions share one picture object.
        distinct = {id(picture): picture for picture in pictures}
        fingerprints = {identity: _fingerprint(picture) for identity, picture in distinct.items()}
        keys = [(fingerprints[id(picture)], options) for picture in pictures]
        missing = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in self._prepared}
        if missing:
            made = self._preprocess([[picture] for picture in missing.values()], *args, **kwargs)
            if any(len(values) != len(missing) for values in made.values()):
                return self._preprocess(images, *args, **kwargs)
            for place, key in enumerate(missing):
                self._prepared[key] = {name: values[place] for name, values in made.items()}
        for key in keys:
            self._prepared.move_to_end(key)
        rows = [self._prepared[key] for key in keys]
        while len(self._prepared) > self.max_pictures:
            self._prepared.popitem(last=False)
        self.seen += len(keys)
        self.computed += len(missing)
        batch = {
            name: torch.stack([row[name] for row in rows])
            if isinstance(value, torch.Tensor)
            else [row[name] for row in rows]
            for name, value in rows[0].items()
        }
        return BatchFeature(batch)


@contextlib.contextmanager
def looking_once(model: Any, processor: Any) -> Iterator[None]:
    """Both caches inside; the vision features only where the tower and the projector are frozen."""
    caches: list[Any] = [PreparedPictures(processor)]
    with contextlib.suppress(VisionCacheError):
        caches.append(FrozenVisionCache(model))
    try:
        yield
    finally:
        for cache in caches:
            cache.detach()


def _flat(images: Any) -> list | None:
    """The pictures of `[picture, ...]` or `[[picture], ...]` in order; None for anything but PIL pictures, one a row."""
    from PIL.Image import Image

    rows = images if isinstance(images, (list, tuple)) else [images]
    pictures = [row[0] if isinstance(row, (list, tuple)) and len(row) == 1 else row for row in rows]
    return pictures if pictures and all(isinstance(picture, Image) for picture in pictures) else None


def _fingerprint(picture: Any) -> tuple:
    return picture.mode, picture.size, hashlib.blake2b(picture.tobytes(), digest_size=16).digest()
