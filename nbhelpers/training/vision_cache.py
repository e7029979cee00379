"""Look at one picture once: GRPO shows the same picture `num_generations` times in every forward.

Two caches, both exact and bounded. `FrozenVisionCache` keeps what the frozen vision tower and projector say about a
picture, through sampling, log-probs, loss and later epochs. `PreparedPictures` keeps what the image processor makes of
a picture, which TRL asks for twice per completion (once for the prompt, once for the loss).

This is the module that touches transformers' insides (tested: `runs/tested.json`): `get_image_features` is replaced,
whose output only `Gemma3Model.forward` reads, and `preprocess` of Gemma-3's image processors overridden.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from nbhelpers.params import PlainError
from nbhelpers.policy import override, replaced

# Through the tower together: one picture of Gemma-3 4B, which keeps a GPU busy, and whose widest tensor takes 70 MB.
PIXELS_AT_ONCE = 896 * 896


class VisionCacheError(PlainError, RuntimeError):
    """The vision features must not be kept, because training changes them."""


class _Recent(OrderedDict):
    """The values of the keys last asked for, `limit` of them once a batch is answered."""

    def __init__(self, limit: int):
        super().__init__()
        self.limit = limit

    def answer(self, keys: list[tuple], compute: Callable[[list[int]], Any]) -> list[Any]:
        """The value of each key; `compute` makes the values of the places in `keys` that are missing."""
        missing = {key: place for place, key in enumerate(keys) if key not in self}
        if missing:
            self.update(zip(missing, compute(list(missing.values())), strict=True))
        for key in keys:
            self.move_to_end(key)
        values = [self[key] for key in keys]
        while len(self) > self.limit:
            self.popitem(last=False)
        return values


class FrozenVisionCache:
    """Keeps the image features of the last `max_pictures` pictures, keyed by their pixels, on the device that computed
    them.

    Replaces `get_image_features` of the one `Gemma3Model` inside `model` (wrapped by PEFT or not) until `detach()`. The
    features carry no graph: nothing before them is trained, and that is checked when the cache is attached.

    Args:
        model: Gemma-3 with vision; its vision tower and projector must be frozen.
        max_pictures: bound of the cache; a picture of Gemma-3 4B takes 256 x 2560 bfloat16 = 1.3 MB.

    Raises:
        VisionCacheError: the model has no vision tower, or a parameter of the tower or the projector is trained.
    """

    def __init__(self, model: Any, max_pictures: int = 256):
        self._features = _Recent(max_pictures)
        self._weights: dict[tuple, Any] = {}
        self._module = _vision_module(model)
        if trained := _trained(self._module):
            raise VisionCacheError(
                f"the vision features cannot be kept: {len(trained)} parameters of the vision tower or projector are "
                f"trained, the first is {trained[0]}. Set lora.finetune_vision_layers=false, or train without it."
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

        def compute(places: list[int]) -> list[Any]:
            chosen = pixel_values.index_select(0, torch.tensor(places, device=pixel_values.device))
            return [features.clone() for features in self._compute(chosen, **kwargs).pooler_output]

        # Features made under inference_mode could not be saved for a later backward pass.
        with torch.inference_mode(False), torch.no_grad():
            features = torch.stack(self._features.answer(self._keys(pixel_values), compute))
        return BaseModelOutputWithPooling(last_hidden_state=None, pooler_output=features)

    def _keys(self, pixel_values: Any) -> list[tuple]:
        """One key per picture: two random linear forms of its bits modulo 2^64, taken where the pixels lie.

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
        sums = torch.stack([(picture.to(torch.int64) * self._weights[where]).sum(dim=1) for picture in bits])
        # Under autocast the same weights give features of another precision.
        kind = flat.device.type
        precision = (torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None, flat.dtype)
        return [(*pair, tuple(pixel_values.shape[1:]), flat.device, precision) for pair in sums.tolist()]


def features_of(model: Any, pixel_values: Any) -> Any | None:
    """What the vision tower and projector say about pictures, (pictures, image tokens, hidden), without a graph; None
    where one of them is trained.
    """
    import torch

    module = _vision_module(model)
    if _trained(module):
        return None
    some = max(1, PIXELS_AT_ONCE // pixel_values[0, 0].numel())
    with torch.inference_mode(False), torch.no_grad():  # as in `FrozenVisionCache`
        looks = [module.get_image_features(part, return_dict=True) for part in pixel_values.split(some)]
        return torch.cat([look.pooler_output for look in looks])


@contextlib.contextmanager
def looked_at(model: Any, features: Any | None) -> Iterator[None]:
    """Inside, the model has these `features_of` the pictures that it is given, or one's of all: it looks at no pixels,
    by which the cache would know a picture again, for which the CPU waits until the GPU has done all that is under way.
    None changes nothing.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    def known(pixel_values: Any, **_: Any) -> Any:
        found = features.expand(len(pixel_values), -1, -1)
        return BaseModelOutputWithPooling(last_hidden_state=None, pooler_output=found)

    with contextlib.nullcontext() if features is None else replaced(_vision_module(model), "get_image_features", known):
        yield


def _trained(module: Any) -> list[str]:
    """The parameters of vision tower and projector that are trained."""
    parts = ("vision_tower", "multi_modal_projector")
    return [name for name, p in module.named_parameters() if p.requires_grad and name.split(".")[0] in parts]


def _vision_module(model: Any) -> Any:
    """The module inside `model` that owns the vision tower, the projector and `get_image_features`."""
    for module in model.modules():
        parts = dict(module.named_children())
        if "vision_tower" in parts and "multi_modal_projector" in parts and hasattr(module, "get_image_features"):
            return module
    raise VisionCacheError(
        f"{type(model).__name__} has no vision tower with a projector: there are no vision features to keep."
    )


class PreparedPictures:
    """Keeps what the image processor made of the last `max_pictures` pictures, keyed by their content.

    Until `detach()`, `preprocess` of `processor.image_processor` asks the cache first. Only the plain case is answered
    from the cache, one PIL picture per prompt; anything else goes to the image processor as it came.

    Args:
        processor: `Gemma3Processor`.
        max_pictures: bound of the cache; a picture of Gemma-3 4B takes 3 x 896 x 896 float32 = 9.6 MB of main memory.
        device: where a batch is put together, so that a picture that a group shares is copied there once; None: in main
            memory.
    """

    def __init__(self, processor: Any, max_pictures: int = 32, device: Any = None):
        self._prepared = _Recent(max_pictures)
        self._device = device
        self._image_processor = processor.image_processor
        self._class = type(self._image_processor)
        self._preprocess = self._image_processor.preprocess
        override(self._image_processor, preprocess=lambda _, *args, **kwargs: self._cached(*args, **kwargs))

    def detach(self) -> None:
        """Give the image processor its own `preprocess` back and forget the pictures."""
        self._image_processor.__class__ = self._class
        self._prepared.clear()

    def _cached(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        import torch
        from transformers.image_processing_utils import BatchFeature

        pictures = _flat(images)
        cut = args or kwargs.get("do_pan_and_scan", self._image_processor.do_pan_and_scan)
        if pictures is None or cut or kwargs.get("return_tensors") not in (None, "pt"):
            return self._preprocess(images, *args, **kwargs)

        wanted = {**kwargs, "return_tensors": "pt"}

        def compute(places: list[int]) -> list[dict[str, Any]]:
            made = self._preprocess([[pictures[place]] for place in places], **wanted)
            return [{name: values[row] for name, values in made.items()} for row in range(len(places))]

        options = repr(sorted((key, repr(value)) for key, value in wanted.items()))
        distinct = {id(picture): picture for picture in pictures}  # a group's completions share one picture object
        fingerprints = {identity: _fingerprint(picture) for identity, picture in distinct.items()}
        rows = self._prepared.answer([(fingerprints[id(picture)], options) for picture in pictures], compute)
        batch = {name: [row[name] for row in rows] for name in rows[0]}
        if kwargs.get("return_tensors") is None:  # TRL tokenizes prompts so, and drops the pictures
            return BatchFeature({name: [v if v.ndim else v.item() for v in values] for name, values in batch.items()})
        for name in [name for name, values in batch.items() if isinstance(values[0], torch.Tensor)]:
            distinct = {id(value): value for value in batch[name]}
            there = {place: value.to(self._device or value.device) for place, value in distinct.items()}
            batch[name] = torch.stack([there[id(value)] for value in batch[name]])
        return BatchFeature(batch)


@contextlib.contextmanager
def looking_once(model: Any, processor: Any, *, pictures: int = 256) -> Iterator[None]:
    """Both caches inside; the features of so many pictures, only where the tower and the projector are frozen."""
    with contextlib.ExitStack() as caches:
        caches.callback(PreparedPictures(processor, device=model.device).detach)
        with contextlib.suppress(VisionCacheError):
            caches.callback(FrozenVisionCache(model, pictures).detach)
        yield


def _flat(images: Any) -> list | None:
    """The pictures of `[picture, ...]` or `[[picture], ...]` in order; None for anything but one PIL picture each."""
    from PIL.Image import Image

    rows = images if isinstance(images, (list, tuple)) else [images]
    pictures = [row[0] if isinstance(row, (list, tuple)) and len(row) == 1 else row for row in rows]
    return pictures if pictures and all(isinstance(picture, Image) for picture in pictures) else None


def _fingerprint(picture: Any) -> tuple:
    return picture.mode, picture.size, hashlib.blake2b(picture.tobytes(), digest_size=16).digest()
