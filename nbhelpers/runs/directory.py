"""The run directory: where everything of one run lies, and what its manifest says of it."""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbhelpers.params import RunParams, differing_settings
from nbhelpers.runs.files import RecordError, to_json, without_collecting, write_whole
from nbhelpers.runs.machine import hardware, versions

if TYPE_CHECKING:
    from PIL import Image


class RunDirectory:
    """Paths, rows and manifest of one run. Nothing is created before something is written.

    >>> run = RunDirectory("outputs/smoke")
    >>> run.append_jsonl(run.metrics_path, {"step": 1, "reward": 1.5})
    >>> run.read_jsonl(run.metrics_path)
    [{'step': 1, 'reward': 1.5}]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(os.path.expanduser(path)))
        self.manifest_path = self.path / "manifest.json"
        self.params_path = self.path / "params.yaml"
        self.metrics_path = self.path / "metrics.jsonl"
        self.samples_path = self.path / "samples.jsonl"
        self.logprobs_path = self.path / "samples.logprobs.jsonl"
        self.predictions_path = self.path / "predictions.jsonl"
        self.marks_path = self.path / "marks.jsonl"
        self.dropped_path = self.path / "dropped.jsonl"
        self.pass_path = self.path / "pass_at_k.jsonl"
        self.plain_path = self.path / "plain_prompt.jsonl"
        self.evaluating_path = self.path / "evaluating.json"
        self.evaluation_path = self.path / "evaluation.json"
        self.report_path = self.path / "report.html"
        self.notebooks_dir = self.path / "notebooks"
        self.images_dir = self.path / "images"
        self.checkpoints_dir = self.path / "checkpoints"
        self.final_model_dir = self.path / "final_model"

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    # rows

    def append_jsonl(self, path: Path, *rows: dict[str, Any]) -> None:
        """Append rows in one write. A torn last line of a process that was killed goes first."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", buffering=0) as file:
            if size := file.seek(0, os.SEEK_END):
                with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
                    whole = content.rfind(b"\n") + 1
                if whole < size:
                    file.truncate(whole)
            content = memoryview(b"".join(map(to_json, rows)))
            while content:  # a disk that is nearly full takes a part and only then raises
                content = content[file.write(content) :]

    def read_jsonl(self, path: Path) -> list[dict[str, Any]]:
        """All rows; none where the file does not exist yet. A line that is still being written is left out.

        Raises `RecordError` with the line's number for a broken line elsewhere.
        """
        rows: list[dict[str, Any]] = []
        if not path.is_file():
            return rows
        with without_collecting():
            for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
                try:
                    rows.append(json.loads(line))
                except (ValueError, RecursionError) as error:
                    raise RecordError(
                        f"{path} is damaged: line {number} is not JSON ({error}). Bring the file back from a copy, or "
                        "take that line out."
                    ) from None
        return rows

    def write_jsonl(self, path: Path, rows: Iterable[dict[str, Any]]) -> None:
        """Replace a file of rows; a reader sees the old one or the new one, never a part."""
        write_whole(path, map(to_json, rows))

    # manifest

    def read_manifest(self) -> dict[str, Any]:
        """The manifest, empty before the first write."""
        return self.read_json(self.manifest_path) or {}

    def update_manifest(self, **entries: Any) -> None:
        """Set top-level entries, merging a mapping into the one that is there."""
        manifest = self.read_manifest()
        for key, value in entries.items():
            both = isinstance(value, dict) and isinstance(manifest.get(key), dict)
            manifest[key] = manifest[key] | value if both else value
        self.write_json(self.manifest_path, manifest)

    def record_run(self, params: RunParams, *, goes_on: bool = False) -> None:
        """Write `params.yaml`, and into the manifest what the run is made of.

        Where the run `goes_on`, or begins again with the same settings, the manifest's other entries stay; else they
        belonged to an earlier run and go.
        """
        self.write_text(self.params_path, params.to_yaml())
        manifest = self.read_manifest()
        parameters = params.as_dict()
        if not goes_on and differing_settings(manifest.get("parameters", {}), parameters):
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

    def recorded_params(self) -> RunParams:
        """The parameters in `params.yaml`, of this folder wherever it has been moved to; for what runs no reward.

        Raises:
            FileNotFoundError: this is no run directory.
        """
        if not self.params_path.is_file():
            raise FileNotFoundError(f"{self.path} is no run directory: it holds no params.yaml.")
        return RunParams.load(str(self.params_path), output_dir=self.path, trust_code=True)

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

    @property
    def evaluation_files(self) -> tuple[Path, ...]:
        """What an evaluation writes, whole or begun."""
        rows = (self.predictions_path, self.pass_path, self.plain_path)
        return (*rows, self.evaluating_path, self.evaluation_path)

    def set_aside(self, *paths: Path) -> Path | None:
        """Move earlier results to `previous/<number>/`: all that a run leaves, unless `paths` are named.

        A second run in the same directory thus loses nothing of the first. Pictures stay where they are: they are named
        by their content and shared. Returns the folder, None where there was nothing to move.
        """
        results = paths or (  # what a run could go on from first: a kill in between leaves nothing that goes on
            self.checkpoints_dir, self.final_model_dir, self.metrics_path, *self.path.glob("samples.*"),
            *self.evaluation_files, self.dropped_path, self.marks_path, self.report_path,
        )  # fmt: skip
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
        """A JSON file, None where it does not exist.

        Raises `RecordError` where it is no JSON.
        """
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise RecordError(
                f"{path} is damaged: it is not JSON ({error}). Bring it back from a copy, or begin another run with "
                "--output-dir."
            ) from None

    def write_json(self, path: Path, value: Any) -> None:
        """Replace a JSON file; a reader sees the old one or the new one, never a part."""
        write_whole(path, [to_json(value, indent=2)])

    def write_text(self, path: Path, text: str) -> None:
        """Replace a text file in the same way."""
        write_whole(path, [text.encode("utf-8")])

    def image_file(self, image: Image.Image) -> str:
        """Save a picture once, named by its content; returns `images/<sha1>.png`, relative to the run."""
        content = hashlib.sha1(f"{image.mode} {image.size}".encode() + image.tobytes(), usedforsecurity=False)
        path = self.images_dir / f"{content.hexdigest()}.png"
        if not path.is_file():
            image.save(file := io.BytesIO(), format="PNG")
            write_whole(path, [file.getvalue()])
        return path.relative_to(self.path).as_posix()
