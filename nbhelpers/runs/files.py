"""How anything gets onto the disk and back: values as JSON, files replaced in one step."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def to_json(value: Any, indent: int | None = None) -> bytes:
    """A JSON text and its newline, in UTF-8; a value in JSON's own types, see `json_value`.

    A lone surrogate, which a tokenizer can produce and UTF-8 cannot hold, stays a `\\udXXX` escape.
    """
    text = json.dumps(json_value(value), ensure_ascii=False, allow_nan=False, indent=indent)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def json_value(value: Any) -> Any:
    """The value in JSON's types: NumPy and torch scalars as numbers, paths as text, NaN and infinity null."""
    if isinstance(value, dict):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, os.PathLike):
        return str(value)
    if not isinstance(value, str | int | float | bool | None) and callable(getattr(value, "item", None)):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_whole(path: Path, parts: Iterable[bytes]) -> None:
    """Replace a file by these bytes; a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(parts)
        # mkstemp is for the owner's eyes only; a run directory is for reading.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
