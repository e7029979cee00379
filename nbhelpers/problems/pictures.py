"""A picture from anywhere, as the model gets it."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

# Above this a picture is a scan or an attack; decoding 50 megapixels takes 150 MB and most of a second.
MAX_PIXELS = 50_000_000


class Unusable(Exception):
    """A row that cannot be used; the message is the reason under which it is counted."""


def prepare_image(picture: Any, image_size: int) -> Image.Image:
    """A picture as the model gets it: RGB, upright, its longest side at most `image_size` pixels, same aspect ratio.

    `picture` is a PIL image, a path, or the bytes of a file. Transparent parts become white, 16 bits become 8. Raises
    `Unusable` where it cannot be decoded, or has more than 50 megapixels (checked before decoding).
    """
    from PIL import Image, ImageOps

    if isinstance(picture, bytes):
        picture = io.BytesIO(picture)
    try:
        # Pillow's own warning comes at 89 megapixels; the check below is stricter.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = picture if isinstance(picture, Image.Image) else Image.open(picture)
        if image.width * image.height > MAX_PIXELS:
            raise Unusable("oversized picture")
        image.load()
        # A copy even of an upright picture: `datasets` would store the path of an opened file, not its pixels.
        image = _rgb(ImageOps.exif_transpose(image))
    except Unusable:
        raise
    except Image.DecompressionBombError:
        raise Unusable("oversized picture") from None
    except Exception:  # Pillow's decoders raise whatever they meet in a broken file
        raise Unusable("unreadable picture") from None
    scale = image_size / max(image.size)
    if scale < 1:
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
    return image


def _rgb(image: Image.Image) -> Image.Image:
    import numpy as np
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        levels = np.asarray(image, dtype=np.float64)
        # I;16 is 16 bits by definition; I and F hold 8 or 16 bits.
        if image.mode.startswith("I;16") or levels.max() > 255:
            levels = levels / 257
        return Image.fromarray(levels.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
