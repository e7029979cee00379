"""Where things lie on this machine: the checkout, the shipped presets, the outputs, a person's own files."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PACKAGE = Path(__file__).resolve().parent.parent


def repository_root() -> Path | None:
    """The top folder of the checkout that this package is imported from, None for an installed wheel."""
    root = _PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "params").is_dir() else None


def presets_folder() -> Path:
    """The folder of the shipped parameter files."""
    root = repository_root()
    return root / "params" if root else _PACKAGE / "_params"


def available_presets() -> list[str]:
    """Names of the shipped presets."""
    return sorted(path.stem for path in presets_folder().glob("*.yaml"))


def resolve_path(path: str | Path) -> Path | None:
    """An existing local path: absolute, or relative to the current folder, or else to the checkout; None if neither."""
    with contextlib.suppress(OSError):  # a name that is too long, a folder that may not be looked into
        return next((place for place in _places(path) if place.exists()), None)
    return None


def places_of(path: str | Path) -> str:
    """Where `resolve_path` looks for a path, for the sentence on one that is not there."""
    return f"looked for {' and '.join(map(str, _places(path)))}"


def _places(path: str | Path) -> list[Path]:
    path = os.path.expanduser(path)
    places = (os.path.abspath(folder / path) for folder in (Path.cwd(), repository_root()) if folder)
    return [Path(place) for place in dict.fromkeys(places)]


def is_hub_id(name: str) -> bool:
    """Whether a name can be one of the hub's, `owner/name`: what is neither that nor there is a path that is wrong."""
    return _HUB_ID.fullmatch(name) is not None
