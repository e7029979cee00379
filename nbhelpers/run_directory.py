"""The run directory: where a run keeps what it was made of, what it measured and what it sampled.

Rows (`metrics.jsonl`, `samples.jsonl`, `predictions.jsonl`) are appended one write call a line, so that a
notebook, the viewer or `tail -f` can follow a run that is still going, and a run that was killed leaves at
most one torn line.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from nbhelpers.params import RunParams

# What a result may depend on; the set that was run together is in pyproject.toml.
_PACKAGES = (
    "nbhelpers",
    "torch",
    "trl",
    "transformers",
    "datasets",
    "peft",
    "accelerate",
    "vllm",
    "unsloth",
    "unsloth-zoo",
    "bitsandbytes",
    "pillow",
    "numpy",
    "papermill",
)


class RunDirectory:
    """Paths, rows and manifest of one run. Nothing is created before something is written.

    >>> run = RunDirectory("outputs/smoke")
    >>> run.append_jsonl(run.metrics_path, {"step": 1, "reward": 1.5})
    >>> run.read_jsonl(run.metrics_path)
    [{'step': 1, 'reward': 1.5}]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(Path(path).expanduser()))
        self.manifest_path = self.path / "manifest.json"
        self.params_path = self.path / "params.yaml"
        self.metrics_path = self.path / "metrics.jsonl"
        self.samples_path = self.path / "samples.jsonl"
        self.predictions_path = self.path / "predictions.jsonl"
        self.evaluation_path = self.path / "evaluation.json"
        self.report_path = self.path / "report.html"
        self.notebooks_dir = self.path / "notebooks"
        self.images_dir = self.path / "images"
        self.checkpoints_dir = self.path / "checkpoints"
        self.final_model_dir = self.path / "final_model"

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    # rows

    def append_jsonl(self, path: Path, row: dict[str, Any]) -> None:
        """Append one row in one write. A torn last line of a process that was killed is cut off first."""
        path.parent.mkdir(parents=True, exist_ok=True)
        line = _json(row).encode("utf-8") + b"\n"
        with open(path, "a+b", buffering=0) as file:
            _cut_torn_line(file)
            file.write(line)

    def read_jsonl(self, path: Path) -> list[dict[str, Any]]:
        """All rows; none where the file does not exist yet. A line that is still being written is left out.

        Raises `ValueError` with the line's number for a broken line elsewhere.
        """
        return list(self.iter_jsonl(path))

    def iter_jsonl(self, path: Path) -> Iterator[dict[str, Any]]:
        """`read_jsonl` row by row, for files too large to hold."""
        if not path.is_file():
            return
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{path}, line {number} is not JSON: {error}") from None

    def write_jsonl(self, path: Path, rows: Iterable[dict[str, Any]]) -> None:
        """Replace a file of rows; a reader sees the old one or the new one, never a part."""
        self.write_text(path, "".join(_json(row) + "\n" for row in rows))

    # manifest

    def read_manifest(self) -> dict[str, Any]:
        """The manifest, empty before the first write."""
        return self.read_json(self.manifest_path) or {}

    def update_manifest(self, **entries: Any) -> dict[str, Any]:
        """Set top-level entries, merging a mapping into the one that is there; returns the new manifest."""
        manifest = self.read_manifest()
        for key, value in entries.items():
            if isinstance(value, dict) and isinstance(manifest.get(key), dict):
                manifest[key] = {**manifest[key], **value}
            else:
                manifest[key] = value
        self.write_json(self.manifest_path, manifest)
        return manifest

    def record_run(self, params: RunParams) -> None:
        """Write `params.yaml`, and into the manifest what the run is made of.

        With the same parameters (`training.resume` apart) the manifest's other entries stay; with different
        ones they belonged to an earlier run and go.
        """
        self.write_text(self.params_path, params.to_yaml())
        manifest = self.read_manifest()
        parameters = params.as_dict()
        if _without_resume(manifest.get("parameters", {})) != _without_resume(_plain(parameters)):
            manifest = {}
        manifest |= {
            "created": manifest.get("created") or datetime.now(UTC).isoformat(timespec="seconds"),
            "preset": params.preset,
            "model": params.model.name,
            "seeds": {"dataset": params.dataset.seed, "training": params.training.seed},
            "parameters": parameters,
            "versions": versions(),
            "hardware": hardware(),
        }
        self.write_json(self.manifest_path, manifest)

    def add_warning(self, sentence: str) -> None:
        """Something that may make the result other than it looks. Said once, however often it is added."""
        self._add("warnings", sentence)

    def add_notice(self, sentence: str) -> None:
        """Something that the run does and a reader should know, such as a rounded batch size."""
        self._add("notices", sentence)

    def _add(self, key: str, sentence: str) -> None:
        sentences = self.read_manifest().get(key, [])
        if sentence not in sentences:
            self.update_manifest(**{key: [*sentences, sentence]})

    # earlier results

    def set_aside(self, *paths: Path) -> Path | None:
        """Move earlier results to `previous/<number>/`: all that a run leaves, unless `paths` are named.

        A second run in the same directory thus loses nothing of the first. Pictures stay where they are: they
        are named by their content and shared. Returns the folder, None where there was nothing to move.
        """
        results = paths or (
            self.metrics_path,
            *self.path.glob("samples.*"),
            self.predictions_path,
            self.evaluation_path,
            self.report_path,
            self.checkpoints_dir,
            self.final_model_dir,
        )
        there = [path for path in results if path.exists()]
        if not there:
            return None
        if not paths:
            there += [path for path in (self.manifest_path, self.params_path) if path.exists()]
        previous = self.path / "previous"
        number = 1 + max((int(p.name) for p in previous.glob("*") if p.name.isdigit()), default=0)
        folder = previous / str(number)
        folder.mkdir(parents=True)
        for path in there:
            path.rename(folder / path.name)
        return folder

    # files

    def read_json(self, path: Path) -> Any:
        """A JSON file, None where it does not exist."""
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def write_json(self, path: Path, value: Any) -> None:
        """Replace a JSON file; a reader sees the old one or the new one, never a part."""
        self.write_text(path, _json(value, indent=2) + "\n")

    def write_text(self, path: Path, text: str) -> None:
        """Replace a text file in the same way."""
        _replace(path, lambda file: file.write(text.encode("utf-8")))

    def image_file(self, image: Image.Image) -> str:
        """Save a picture once, named by its content; returns `images/<sha1>.png`, relative to the run."""
        content = hashlib.sha1(f"{image.mode} {image.size}".encode() + image.tobytes(), usedforsecurity=False)
        path = self.images_dir / f"{content.hexdigest()}.png"
        if not path.is_file():
            _replace(path, lambda file: image.save(file, format="PNG"))
        return path.relative_to(self.path).as_posix()


def _without_resume(parameters: dict[str, Any]) -> dict[str, Any]:
    training = {key: value for key, value in parameters.get("training", {}).items() if key != "resume"}
    return {**parameters, "training": training}


def versions() -> dict[str, str]:
    """Python and the packages that a result may depend on, as installed; nothing is imported."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores that this process may use, memory in GiB, and the GPUs (name, memory in GiB)."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "gpus": _gpus(),
    }


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _gpus() -> list[dict[str, Any]]:
    # torch knows which GPUs this process may use, but is not imported for that: it takes seconds.
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "cuda"):
        if not torch.cuda.is_available():
            return []
        properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in properties]
    return [dict(gpu) for gpu in _gpus_by_driver()]


@lru_cache(maxsize=1)
def _gpus_by_driver() -> list[dict[str, Any]]:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = []
    for line in answer.splitlines():
        name, memory, driver = (part.strip() for part in line.rsplit(",", 2))
        gib = round(float(memory) / 1024, 1) if memory.replace(".", "", 1).isdigit() else None
        gpus.append({"name": name, "memory_gib": gib, "driver": driver})
    return gpus


def _cut_torn_line(file: Any) -> None:
    """Cut an open binary file after its last newline."""
    size = end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        file.truncate(end)


def _replace(path: Path, write: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        # mkstemp is for the owner's eyes only; a run directory is for reading.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _json(value: Any, indent: int | None = None) -> str:
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, indent=indent)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate in sampled text
        text = json.dumps(_plain(value), allow_nan=False, indent=indent)
    return text


def _plain(value: Any) -> Any:
    """The value in JSON's types: NumPy and torch scalars as numbers, paths as text, NaN and infinity null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return str(value)
    if not isinstance(value, str | int | float | bool | None) and callable(getattr(value, "item", None)):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
