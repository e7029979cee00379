"""Pictures small enough to stand inside a page."""

from __future__ import annotations

import base64
import io
import os
from functools import lru_cache
from pathlib import Path
from typing import Any


def encode_image(image: Any, longest: int = 480) -> bytes:
    """A PIL picture as WebP, at most `longest` pixels on a side; few colours without loss, which is smaller."""
    image = image.convert("RGB")
    image.thumbnail((longest, longest))
    buffer = io.BytesIO()
    if image.getcolors(1024):
        image.save(buffer, "WEBP", lossless=True, quality=20, method=1)  # quality is effort here
    else:
        image.save(buffer, "WEBP", quality=82, method=1)
    return buffer.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(content).decode("ascii")


def uri_of(image: Any, longest: int = 480) -> str:
    """A PIL picture as the address of an `img`."""
    return data_uri(encode_image(image, longest), "webp")


def load_image(folder: str | os.PathLike, name: Any) -> Any:
    """The picture that a row names, or None. A name that leads out of the run directory is not followed."""
    from PIL import Image

    if not isinstance(name, str):
        return None
    folder = Path(folder).resolve()
    path = (folder / name).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


@lru_cache(maxsize=256)
def picture_uri(folder: str | os.PathLike, name: Any, longest: int = 480) -> str | None:
    """`uri_of` the picture that a row of the run in `folder` names, None where there is none."""
    image = load_image(folder, name)
    return None if image is None else uri_of(image, longest)
