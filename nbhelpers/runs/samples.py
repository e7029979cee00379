"""Every sampled completion on disk, a line each: written while the policy trains, read by viewer, report and tests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbhelpers.params import did_you_mean
from nbhelpers.runs.directory import RunDirectory

if TYPE_CHECKING:
    from PIL import Image


class SampleWriter:
    """Appends completions to a run's `samples.jsonl` and their pictures to `images/`.

    Args:
        run: the run directory.
        resume_step: None begins a new file. N keeps the rows of optimiser steps up to N and drops later ones, so that a
            run resumed from checkpoint N samples them again without doubling them.
    """

    def __init__(self, run: RunDirectory, resume_step: int | None = None):
        self._run = run
        earlier = [] if resume_step is None else run.read_jsonl(run.samples_path)
        run.write_jsonl(run.samples_path, [row for row in earlier if row["step"] <= resume_step])

    def write(self, rows: Sequence[dict], images: Sequence[Image.Image]) -> None:
        """Append `rows`; `images[i]` is the picture of `rows[i]`.

        A reader sees whole calls or, at worst, a torn last line.
        """
        if len(rows) != len(images):
            raise ValueError(
                f"SampleWriter.write got {len(rows)} rows and {len(images)} images; it needs one image per row"
            )
        # A group shares one picture object: hash and save it once.
        files = {key: self._run.image_file(image) for key, image in {id(image): image for image in images}.items()}
        complete = (row | {"image": files[id(image)]} for row, image in zip(rows, images, strict=True))
        self._run.append_jsonl(self._run.samples_path, *complete)


def earned_the_same(rows: Sequence[Mapping]) -> bool:
    """Whether several completions earned the same reward; not so where a reward could not judge."""
    rewards = [row.get("reward") for row in rows]
    return len(rewards) > 1 and None not in rewards and max(rewards) - min(rewards) < 1e-6


@dataclass(slots=True)
class Group:
    """The completions of one prompt in one rollout, as rows of `samples.jsonl`."""

    name: str
    step: int
    pid: str
    kind: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Share of right completions, 0 to 1."""
        return sum(bool(row.get("correct")) for row in self.rows) / len(self.rows)


# What a viewer can ask for: the label that it shows, and what holds of a group and of all groups of its problem, the
# visits, in the order of sampling.
_FILTERS: dict[str, tuple[str, Callable[[Group, list[Group]], bool]]] = {
    "all": ("all groups", lambda group, visits: True),
    "some wrong": ("at least one wrong", lambda group, visits: group.share < 1),
    "all wrong": ("every completion wrong", lambda group, visits: group.share == 0),
    "mixed": ("right and wrong together", lambda group, visits: 0 < group.share < 1),
    "all right": ("every completion right", lambda group, visits: group.share == 1),
    "zero variance": ("zero variance: same reward for all", lambda group, visits: earned_the_same(group.rows)),
    "wrong to right": (
        "problems that went from wrong to right",
        lambda group, visits: visits[0].share < 0.5 <= visits[-1].share,
    ),
    "right to wrong": (
        "problems that went from right to wrong",
        lambda group, visits: visits[-1].share < 0.5 <= visits[0].share,
    ),
    "cut off": ("at least one cut off", lambda group, visits: any(row.get("truncated") for row in group.rows)),
}
FILTERS = {name: label for name, (label, _) in _FILTERS.items()}


class SampleStore:
    """Reads `samples.jsonl` of a finished or a running run.

    `refresh()` takes in what was written since. Groups are numbered from 0 in the order of sampling, and `len(store)`
    counts completions.

    Args:
        path: a run directory.
        role: "rollout" for what was trained on, "probe" for the probes.
    """

    def __init__(self, path: str | os.PathLike, role: str = "rollout"):
        self.role = role
        self.folder = Path(path)
        self.path = RunDirectory(path).samples_path
        self._clear()
        self.refresh()

    def _clear(self) -> None:
        self._groups: list[Group] = []
        self._visits: dict[str, list[Group]] = {}
        self._end, self._last = 0, b""

    def __len__(self) -> int:
        return sum(len(group.rows) for group in self._groups)

    def refresh(self) -> int:
        """Take in the lines written since the last look; gives how many. A file begun anew is read from its start."""
        if not self.path.exists():
            self._clear()
            return 0
        before = len(self)
        with open(self.path, "rb") as file:
            file.seek(self._end - len(self._last))
            if file.read(len(self._last)) != self._last:
                self._clear()
                before = 0
            file.seek(self._end)
            for line in file:
                if not line.endswith(b"\n"):  # still being written
                    break
                self._take_in(line)
                self._end, self._last = self._end + len(line), line
        return len(self) - before

    def _take_in(self, line: bytes) -> None:
        try:
            row = json.loads(str(line, "utf-8"))
            name, step, pid = row["group"], row["step"], row["pid"]
        except (ValueError, KeyError, TypeError):  # a damaged line
            return
        if row.get("role", "rollout") != self.role:
            return
        if not self._groups or self._groups[-1].name != name:
            self._groups.append(Group(name, step, pid, row.get("kind")))
            self._visits.setdefault(pid, []).append(self._groups[-1])
        self._groups[-1].rows.append(row)

    @property
    def steps(self) -> list[int]:
        """The optimiser steps that have samples, ascending."""
        return sorted({group.step for group in self._groups})

    @property
    def kinds(self) -> list[str]:
        """The problem kinds, in the order of first appearance."""
        return [kind for kind in dict.fromkeys(group.kind for group in self._groups) if kind is not None]

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
                its completions right, last with at least half; "right to wrong" the other way.
            text: found in question, answer or any completion, whatever the case.
        """
        if show not in FILTERS:
            known = ", ".join(map(repr, FILTERS))
            raise ValueError(f"show={show!r} is not one of {known}{did_you_mean(show, FILTERS)}")
        matches, wanted = _FILTERS[show][1], text.strip().casefold()
        return [
            number
            for number, group in enumerate(self._groups)
            if step in (None, group.step)
            and pid in (None, group.pid)
            and kind in (None, group.kind)
            and matches(group, self._visits[group.pid])
            and (not wanted or any(wanted in _searchable(row) for row in group.rows))
        ]

    def group(self, number: int) -> Group:
        """Group `number`, from 0."""
        return self._groups[number]


def _searchable(row: Mapping) -> str:
    return "\n".join(str(row.get(key) or "") for key in ("question", "answer", "completion")).casefold()
