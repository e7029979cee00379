"""How anything gets onto the disk and back: values as JSON, files replaced in one step."""

from __future__ import annotations

import gc
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from nbhelpers.params import PlainError


class RecordError(PlainError, ValueError):
    """A file of a run directory is damaged; the message says which, and where."""


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


def line_blocks(file: BinaryIO, size: int = 1 << 20) -> Iterator[bytes]:
    """The file's lines from here on, about `size` bytes of whole lines at a time; a last line still being written is
    left out.
    """
    rest = b""
    while block := file.read(size):
        block = rest + block
        end = block.rfind(b"\n") + 1
        rest = block[end:]
        if end:
            yield block[:end]


def json_of_lines(block: bytes) -> list[Any]:
    """The values of those lines that hold JSON in UTF-8; every line ends with a newline.

    They are read at once: that is a third faster than one by one, and a key that all rows have is kept once.
    """
    try:
        values = json.loads(f"[{str(block[:-1], 'utf-8').replace(chr(10), ',')}]")
        if len(values) == block.count(b"\n"):
            return values
    except ValueError:  # a damaged line
        pass
    return [value for line in block.splitlines() for value in _json_of_line(line)]


def _json_of_line(line: bytes) -> list[Any]:
    try:
        return [json.loads(str(line, "utf-8"))]
    except ValueError:
        return []


@contextmanager
def without_collecting() -> Iterator[None]:
    """No garbage collection meanwhile: values read from JSON hold no circles, and each pass would walk them all."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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
