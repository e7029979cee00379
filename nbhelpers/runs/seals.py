"""The seal of a folder: written last, it says what the folder holds, so that a half written or damaged one is known."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from nbhelpers.runs.files import to_json, write_whole

SEAL = "seal.json"
UNSEALED = (SEAL, "README.md")  # the card is written again when figures come


def seal(folder: Path, **facts: Any) -> None:
    """Write `seal.json` into a folder that is otherwise complete: `facts`, and bytes and SHA-256 of every file.

    What it vouches for is on the disk before it is: a folder with a seal was written to its end, even where the power
    failed.
    """
    files = {}
    for path in _files(folder):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    write_whole(folder / SEAL, [to_json(facts | {"files": files}, indent=2)])


def read_seal(folder: Path) -> dict[str, Any] | None:
    """What a folder's seal says; None where there is none that can be read."""
    try:
        found = json.loads((folder / SEAL).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else None


def flaw(folder: Path) -> str | None:
    """What is wrong with a folder that ought to be sealed, in words ("optimizer.pt is missing"); None: it is whole."""
    sealed = read_seal(folder)
    if sealed is None:
        return f"it was not written to its end ({SEAL} is {'damaged' if (folder / SEAL).is_file() else 'missing'})"
    for name, expected in sealed["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size:,} bytes instead of {expected['bytes']:,}"
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                return f"{name} is not as it was written"
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in UNSEALED)
