"""Where things lie on this machine: the checkout, the shipped presets, the outputs, a person's own files."""

from __future__ import annotations

import os
from pathlib import Path

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
    path = Path(path).expanduser()
    for folder in (Path.cwd(), repository_root()):
        if folder is not None and (folder / path).exists():
            return Path(os.path.abspath(folder / path))
    return None
