"""Every sampled completion on disk: written while the policy trains, read by the viewer, the report and the tests.

`samples.jsonl` holds one line a completion. A reader never loads it: it keeps the byte range of each line and the few
numbers that the filters need, and parses a line when somebody looks at it. `SampleWriter` leaves those numbers in a
side-car, `samples.index.jsonl`; a reader without one, or with one that does not fit the file, reads the lines
themselves.
"""

from __future__ import annotations

import difflib
import json
import math
import mmap
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

SAMPLES = "samples.jsonl"


INDEX = "samples.index.jsonl"


# What a viewer can ask for; the sentence is shown as the filter's label.
FILTERS = {
    "all": "all groups",
    "some wrong": "at least one wrong",
    "all wrong": "every completion wrong",
    "mixed": "right and wrong together",
    "all right": "every completion right",
    "zero variance": "zero variance: same reward for all",
    "wrong to right": "problems that went from wrong to right",
    "right to wrong": "problems that went from right to wrong",
    "cut off": "at least one cut off",
}


def encode(row: dict | list) -> bytes:
    """One JSON line, in JSON's own types: NumPy and torch scalars as numbers, NaN and infinity as null.

    A lone surrogate, which a tokenizer can produce and UTF-8 cannot hold, stays a `\\udXXX` escape.
    """
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False, default=_number)
    except ValueError:
        text = json.dumps(_finite(row), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _number(value):
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written to a JSON line")


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


class SampleWriter:
    """Appends completions to a run's `samples.jsonl` and their pictures to `images/`.

    Args:
        run: the `RunDirectory`; its `image_file(picture)` saves a picture once by content and gives the relative path.
        resume_step: None begins a new file. N keeps the rows of optimiser steps up to N and drops later ones, so that a
            run
            resumed from checkpoint N samples them again without doubling them.
    """

    def __init__(self, run, resume_step: int | None = None):
        self._run = run
        folder = Path(run.path)
        folder.mkdir(parents=True, exist_ok=True)
        if resume_step is None:
            kept = []
            (folder / SAMPLES).write_bytes(b"")
        else:
            kept = _drop_later_steps(folder / SAMPLES, resume_step)
        _replace(folder / INDEX, kept)
        self._samples = open(folder / SAMPLES, "ab")  # noqa: SIM115  (open for the writer's life)
        self._index = open(folder / INDEX, "ab")  # noqa: SIM115
        self._end = self._samples.seek(0, os.SEEK_END)

    def write(self, rows: Sequence[dict], images: Sequence) -> None:
        """Appends `rows`; `images[i]` is the PIL picture of `rows[i]`. A reader sees whole calls or, at worst, a torn
        last line.
        """
        if len(rows) != len(images):
            raise ValueError(
                f"SampleWriter.write got {len(rows)} rows and {len(images)} images; it needs one image a row"
            )
        files: dict[int, str] = {}  # a group shares one picture object: hash and save it once
        lines, index = [], []
        for row, image in zip(rows, images, strict=True):
            if id(image) not in files:
                files[id(image)] = str(self._run.image_file(image))
            line = encode({**row, "image": files[id(image)]})
            lines.append(line)
            index.append(_index_line(row, self._end, len(line)))
            self._end += len(line)
        # The samples first: an index that lags is completed by the reader, one that runs ahead is thrown away.
        for file, content in ((self._samples, lines), (self._index, index)):
            file.write(b"".join(content))
            file.flush()

    def close(self) -> None:
        self._samples.close()
        self._index.close()

    def __enter__(self) -> SampleWriter:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _index_line(row: dict, start: int, size: int) -> bytes:
    values = [start, size, row.get("step"), row.get("group"), row.get("pid"), row.get("kind"), row.get("correct")]
    return encode([*values, row.get("reward"), row.get("length"), bool(row.get("truncated"))])


def _drop_later_steps(path: Path, last_step: int) -> list[bytes]:
    """Rewrites `path` with the rows of steps up to `last_step`; gives their index lines."""
    index: list[bytes] = []
    end = 0
    draft = path.with_suffix(".draft")
    with open(draft, "wb") as kept:
        if path.exists():
            with open(path, "rb") as file:
                for line in file:
                    try:
                        row = json.loads(line) if line.endswith(b"\n") else None
                    except ValueError:
                        row = None
                    if row is None or row["step"] > last_step:
                        continue
                    kept.write(line)
                    index.append(_index_line(row, end, len(line)))
                    end += len(line)
    os.replace(draft, path)
    return index


def _replace(path: Path, lines: Iterable[bytes]) -> None:
    draft = path.with_suffix(".draft")
    draft.write_bytes(b"".join(lines))
    os.replace(draft, path)  # a reader sees the old file or the new one, never half of one


class Group(NamedTuple):
    """The completions of one prompt in one rollout. `start` and `stop` are row numbers of the store; `stop - start`
    completions.
    """

    number: int
    name: str
    step: int
    pid: str
    kind: str
    start: int
    stop: int
    right: int
    zero_variance: bool


class SampleStore:
    """Reads `samples.jsonl` of a finished or a running run without loading it.

    `store[i]` parses row i. `refresh()` takes in what was written since. Rows come in the order of sampling.

    Args:
        path: a run directory, or a `samples.jsonl`.
    """

    def __init__(self, path: str | os.PathLike):
        path = Path(path)
        self.path = path if path.suffix == ".jsonl" else path / SAMPLES
        self.folder = self.path.parent
        self._clear()
        self.refresh()

    def _clear(self) -> None:
        self._end = 0
        self._columns: dict[str, np.ndarray] = {name: np.empty(0, kind) for name, kind in _COLUMNS.items()}
        self._codes: dict[str, dict] = {"group": {}, "pid": {}, "kind": {}}
        self._names: dict[str, list] = {}
        self._group_table: dict[str, np.ndarray] | None = None
        self._beginning = b""
        self.damaged = 0

    def __len__(self) -> int:
        return len(self._columns["start"])

    def __getitem__(self, row: int) -> dict:
        return self.rows([row])[0]

    def rows(self, numbers: Iterable[int]) -> list[dict]:
        """The rows with these numbers, parsed."""
        starts, sizes = self._columns["start"], self._columns["size"]
        with open(self.path, "rb") as file:
            result = []
            for number in numbers:
                file.seek(int(starts[number]))
                result.append(json.loads(file.read(int(sizes[number]))))
        return result

    def refresh(self) -> int:
        """Takes in the lines written since the last look; gives how many. A file begun anew or cut back is read again."""
        if not self.path.exists():
            self._clear()
            return 0
        before = len(self)
        with open(self.path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            beginning = file.read(256)
            if size < self._end or not beginning.startswith(self._beginning):
                self._clear()
                before = 0
            self._beginning = beginning
            if not self._end:
                self._read_index(size)
            if not self._last_line_fits(file):
                self._clear()
                self._beginning = beginning
                before = 0
            self._read_tail(file)
        return len(self) - before

    def _read_index(self, size: int) -> None:
        index = self.path.with_name(INDEX)
        if self.path.name != SAMPLES or not index.exists():
            return
        content = index.read_bytes()
        content = content[: content.rfind(b"\n") + 1].rstrip(b"\n")
        try:
            entries = json.loads(b"[" + content.replace(b"\n", b",") + b"]")
        except ValueError:
            return
        inside = len(entries)
        while inside and entries[inside - 1][0] + entries[inside - 1][1] > size:
            inside -= 1
        self._append(entries[:inside])
        starts, sizes = self._columns["start"], self._columns["size"]
        if len(starts) and (starts[0] != 0 or (starts[1:] != starts[:-1] + sizes[:-1]).any()):
            self._clear()

    def _last_line_fits(self, file) -> bool:
        """Whether the last indexed line is what the index says: the file may have been replaced behind it."""
        if not len(self):
            return True
        start, size = int(self._columns["start"][-1]), int(self._columns["size"][-1])
        file.seek(start)
        try:
            row = json.loads(file.read(size))
            return row["step"] == self._columns["step"][-1] and row["group"] in self._codes["group"]
        except (ValueError, KeyError, TypeError):
            return False

    def _read_tail(self, file) -> None:
        file.seek(self._end)
        entries = []
        start = self._end
        for line in file:
            if not line.endswith(b"\n"):  # still being written
                break
            try:
                row = json.loads(line)
                entries.append(json.loads(_index_line(row, start, len(line))))
            except (ValueError, AttributeError):
                self.damaged += 1
            start += len(line)
        self._append(entries)
        self._end = start

    def _append(self, entries: list) -> None:
        if not entries:
            return
        start, size, step, group, pid, kind, correct, reward, length, truncated = zip(*entries, strict=True)
        new = {
            "start": start,
            "size": size,
            "step": [-1 if value is None else value for value in step],
            "correct": [-1 if value is None else value for value in correct],
            "reward": [np.nan if value is None else value for value in reward],
            "length": [0 if value is None else value for value in length],
            "truncated": truncated,
        }
        for name, values in (("group", group), ("pid", pid), ("kind", kind)):
            codes = self._codes[name]
            new[name] = [codes.setdefault(value, len(codes)) for value in values]
            self._names[name] = list(codes)
        for name, values in new.items():
            self._columns[name] = np.concatenate([self._columns[name], np.asarray(values, _COLUMNS[name])])
        self._end = start[-1] + size[-1]
        self._group_table = None

    @property
    def steps(self) -> list[int]:
        """The optimiser steps that have samples, ascending."""
        return np.unique(self._columns["step"]).tolist()

    @property
    def kinds(self) -> list[str]:
        """The problem kinds, in the order of first appearance."""
        return [kind for kind in self._codes["kind"] if kind is not None]

    def _table(self) -> dict[str, np.ndarray]:
        """The groups as columns: runs of consecutive rows with the same group name."""
        if self._group_table is None:
            column = self._columns
            count = len(self)
            change = np.flatnonzero(np.diff(column["group"])) + 1
            start = np.concatenate([[0], change]).astype(np.int64) if count else np.empty(0, np.int64)
            stop = np.concatenate([change, [count]]).astype(np.int64) if count else start
            table = {"start": start, "stop": stop}
            if count:
                size = stop - start
                table["right"] = np.add.reduceat((column["correct"] == 1).astype(np.int32), start)
                table["cut"] = np.add.reduceat(column["truncated"].astype(np.int32), start)
                low, high = np.minimum.reduceat(column["reward"], start), np.maximum.reduceat(column["reward"], start)
                table["flat"] = (high - low < 1e-6) & (size > 1)
                table["first_visit"], table["last_visit"] = self._first_and_last(start, table["right"] / size)
            else:
                for name in ("right", "cut", "flat", "first_visit", "last_visit"):
                    table[name] = np.empty(0)
            for name in ("step", "pid", "kind"):
                table[name] = column[name][start]
            self._group_table = table
        return self._group_table

    def _first_and_last(self, start: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For every group: its problem's share of right completions when first met, and when last met."""
        pid = self._columns["pid"][start]
        order = np.argsort(pid, kind="stable")  # groups of a problem stay in the order of sampling
        begins = np.flatnonzero(np.diff(pid[order], prepend=-1))
        ends = np.append(begins[1:], len(order)) - 1
        which = np.searchsorted(np.unique(pid), pid)
        return share[order[begins]][which], share[order[ends]][which]

    def groups(
        self,
        *,
        step: int | None = None,
        pid: str | None = None,
        kind: str | None = None,
        show: str = "all",
        text: str = "",
    ) -> list[int]:
        """Numbers of the groups that match every condition given, in the order of sampling.

        Args:
            step: optimiser step of the rollout.
            pid: one problem, through training.
            kind: problem kind.
            show: a key of `FILTERS`. "wrong to right": the problem was met more than once, first with less than half of
                its
                completions right, last with at least half; "right to wrong" the other way.
            text: found in question, answer or any completion, whatever the case.
        """
        if show not in FILTERS:
            near = difflib.get_close_matches(str(show), FILTERS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"show={show!r} is not one of {', '.join(map(repr, FILTERS))}{hint}")
        table = self._table()
        size = table["stop"] - table["start"]
        keep = np.ones(len(size), bool)
        if step is not None:
            keep &= table["step"] == step
        for name, value in (("pid", pid), ("kind", kind)):
            if value is not None:
                keep &= table[name] == self._codes[name].get(value, -1)
        if show == "some wrong":
            keep &= table["right"] < size
        elif show == "all wrong":
            keep &= table["right"] == 0
        elif show == "mixed":
            keep &= (table["right"] > 0) & (table["right"] < size)
        elif show == "all right":
            keep &= table["right"] == size
        elif show == "zero variance":
            keep &= table["flat"].astype(bool)
        elif show == "wrong to right":
            keep &= (table["first_visit"] < 0.5) & (table["last_visit"] >= 0.5)
        elif show == "right to wrong":
            keep &= (table["first_visit"] >= 0.5) & (table["last_visit"] < 0.5)
        elif show == "cut off":
            keep &= table["cut"] > 0
        found = np.flatnonzero(keep)
        return self._holding(found, text) if text.strip() else found.tolist()

    def _holding(self, groups: np.ndarray, text: str) -> list[int]:
        table = self._table()
        wanted = text.strip().casefold()
        # Letters, digits and spaces stand in the file as they are, so the bytes can rule out most lines before any is
        # parsed.
        pieces = re.findall(r"[A-Za-z0-9 ]+", text.strip())
        candidates = None
        if pieces:
            pattern = re.compile(re.escape(max(pieces, key=len).encode()), re.IGNORECASE)
            with open(self.path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                hits = np.fromiter((match.start() for match in pattern.finditer(content)), np.int64)
            candidates = np.zeros(len(self), bool)
            rows = np.searchsorted(self._columns["start"], hits, side="right") - 1
            candidates[rows[rows >= 0]] = True
        result = []
        for group in groups.tolist():
            rows = range(int(table["start"][group]), int(table["stop"][group]))
            if candidates is not None:
                rows = [row for row in rows if candidates[row]]
            if rows and any(wanted in _searchable(row) for row in self.rows(rows)):
                result.append(group)
        return result

    def group(self, number: int) -> Group:
        """What the index knows of group `number`."""
        table = self._table()
        start, stop = int(table["start"][number]), int(table["stop"][number])
        names = {name: self._names[name][self._columns[name][start]] for name in ("group", "pid", "kind")}
        right, flat = int(table["right"][number]), bool(table["flat"][number])
        step = int(table["step"][number])
        return Group(number, str(names["group"]), step, names["pid"], str(names["kind"]), start, stop, right, flat)

    def completions(self, number: int) -> list[dict]:
        """The rows of group `number`, parsed."""
        table = self._table()
        return self.rows(range(int(table["start"][number]), int(table["stop"][number])))


_COLUMNS = {
    "start": np.int64,
    "size": np.int64,
    "step": np.int32,
    "group": np.int32,
    "pid": np.int32,
    "kind": np.int32,
    "correct": np.int8,
    "reward": np.float64,
    "length": np.int32,
    "truncated": np.bool_,
}


def _searchable(row: dict) -> str:
    return "\n".join(str(row.get(key) or "") for key in ("question", "answer", "completion")).casefold()
