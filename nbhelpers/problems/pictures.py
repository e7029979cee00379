"""A picture from anywhere, as the model gets it."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

# Pixels of a picture that is decoded whole. A larger JPEG is shrunk while it is decoded, as its coarse part can be read
# alone; anything else that large is a scan or an attack.
MAX_PIXELS = 16_000_000
MAX_JPEG_PIXELS = 50_000_000
# What is decoded: not EPS, for which Pillow starts Ghostscript on what is a program.
FORMATS = ("PNG", "JPEG", "MPO", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")


OVERSIZED = f"a picture of more than {MAX_PIXELS // 10**6} megapixels ({MAX_JPEG_PIXELS // 10**6} as JPEG)"


class Unusable(Exception):
    """A row that cannot be used; the message is the reason under which it is counted."""


def prepare_image(picture: Any, image_size: int) -> Image.Image:
    """A picture as the model gets it: RGB, upright, its longest side at most `image_size` pixels, same aspect ratio.

    `picture` is a PIL image, a path, or the bytes of a file. Transparent parts become white, 16 bits become 8. Raises
    `Unusable` where it cannot be decoded, or is too large (16 megapixels, 50 as JPEG), which is seen before decoding.
    """
    from PIL import Image, ImageOps

    if isinstance(picture, bytes):
        picture = io.BytesIO(picture)
    try:
        image = picture if isinstance(picture, Image.Image) else _open(picture)
        if image.width * image.height > MAX_PIXELS:
            if image.format not in ("JPEG", "MPO") or image.width * image.height > MAX_JPEG_PIXELS:
                raise Unusable(OVERSIZED)
            image.draft("RGB", (image_size, image_size))
            if image.width * image.height > MAX_PIXELS:
                raise Unusable(OVERSIZED)
        image.load()
        # A copy even of an upright picture: `datasets` would store the path of an opened file, not its pixels.
        image = _rgb(ImageOps.exif_transpose(image))
    except Unusable:
        raise
    except Image.DecompressionBombError:
        raise Unusable(OVERSIZED) from None
    except Exception:  # Pillow's decoders raise whatever they meet in a broken file
        raise Unusable("unreadable picture") from None
    scale = image_size / max(image.size)
    if scale < 1:
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
    return image


def _open(picture: Any) -> Image.Image:
    from PIL import Image

    Image.init()
    # Pillow's own warning comes at 89 megapixels; the check on opening is stricter.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(picture, formats=[name for name in FORMATS if name in Image.OPEN])


def _rgb(image: Image.Image) -> Image.Image:
    import numpy as np
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        levels = np.array(image, dtype=np.float32)
        # I;16 is 16 bits by definition; I and F hold 8 or 16 bits.
        if image.mode.startswith("I;16") or levels.max() > 255:
            levels /= 257
        return Image.fromarray(levels.clip(0, 255, out=levels).round(out=levels).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
