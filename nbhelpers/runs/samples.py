"""Every sampled completion on disk, a line each: written while the policy trains, read by viewer, report and tests."""

from __future__ import annotations

import os
import struct
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbhelpers.params import did_you_mean
from nbhelpers.runs.directory import RunDirectory
from nbhelpers.runs.files import json_of_lines, line_blocks, without_collecting

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
        if run.logprobs_path.is_file():
            kept = [] if resume_step is None else run.read_jsonl(run.logprobs_path)
            run.write_jsonl(run.logprobs_path, [line for line in kept if line["step"] <= resume_step])

    def write(
        self, rows: Sequence[dict], images: Sequence[Image.Image], sampled: Sequence[TokenLogProbs | None] = ()
    ) -> None:
        """Append `rows`; `images[i]` is the picture of `rows[i]`, `sampled[i]` its log-probs where there are some.

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
        lines = [
            {"key": f"{row['group']}/{row['index']}", "step": row["step"], **tokens.packed()}
            for row, tokens in zip(rows, sampled, strict=False)
            if tokens is not None
        ]
        if lines:
            self._run.append_jsonl(self._run.logprobs_path, *lines)


@dataclass(frozen=True)
class TokenLogProbs:
    """A completion's tokens, by their lengths in characters, and the log-prob of each when it was sampled, in nats."""

    lengths: list[int]
    log_probs: list[float]

    def packed(self) -> dict[str, str]:
        """A byte for a length, two for a log-prob (float16), as base64: 4 characters for a token."""
        lengths = bytes(min(length, 255) for length in self.lengths)
        halves = struct.pack(f"<{len(self.log_probs)}e", *[max(value, -6e4) for value in self.log_probs])
        return {"lengths": b64encode(lengths).decode(), "log_probs": b64encode(halves).decode()}

    @classmethod
    def unpacked(cls, line: Mapping) -> TokenLogProbs:
        halves = b64decode(line["log_probs"])
        return cls(list(b64decode(line["lengths"])), list(struct.unpack(f"<{len(halves) // 2}e", halves)))


def read_log_probs(run: RunDirectory) -> dict[str, Mapping]:
    """vLLM's log-probs by sample (`3-2/1`: group and place in it), for `TokenLogProbs.unpacked`: unpacked, those of a
    long run would fill the memory. None where the policy sampled itself.
    """
    return {line["key"]: line for line in run.read_jsonl(run.logprobs_path)}


def earned_the_same(rows: Sequence[Mapping]) -> bool:
    """Whether several completions earned the same reward; not so where a reward could not judge."""
    rewards = [row.get("reward") for row in rows]
    return len(rewards) > 1 and None not in rewards and max(rewards) - min(rewards) < 1e-6


@dataclass(slots=True)
class Group:
    """Completions of one problem, as rows of `samples.jsonl` or `predictions.jsonl`: of one rollout, of a probe through
    training, or of an evaluation before and after.
    """

    name: str
    step: int
    pid: str
    kind: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Share of right completions, 0 to 1."""
        return share_right(self.rows)


def share_right(rows: Sequence[Mapping]) -> float:
    return sum(bool(row.get("correct")) for row in rows) / len(rows)


Ends = Callable[[str], tuple[float, float]]  # of a problem, the shares of right completions at first and last visit

# What a viewer can ask for: the label that it shows, and what holds of a group. A problem's ends are asked for where
# they matter and not else: they take longer than all the rest.
_FILTERS: dict[str, tuple[str, Callable[[Group, Ends], bool]]] = {
    "all": ("all groups", lambda group, ends: True),
    "some wrong": ("at least one wrong", lambda group, ends: group.share < 1),
    "all wrong": ("every completion wrong", lambda group, ends: group.share == 0),
    "mixed": ("right and wrong together", lambda group, ends: 0 < group.share < 1),
    "all right": ("every completion right", lambda group, ends: group.share == 1),
    "zero variance": ("zero variance: same reward for all", lambda group, ends: earned_the_same(group.rows)),
    "wrong to right": ("problems that went from wrong to right", lambda group, ends: _went(ends, group) == "fixed"),
    "right to wrong": (
        "problems that went from right to wrong",
        lambda group, ends: _went(ends, group) == "broken",
    ),
    "cut off": ("at least one cut off", lambda group, ends: any(row.get("truncated") for row in group.rows)),
}
_CHANGES: dict[str, tuple[str, Callable[[Group, Ends], bool]]] = {
    "all": ("all problems", lambda group, ends: True),
    "fixed": ("fixed: wrong at first, right at last", lambda group, ends: _went(ends, group) == "fixed"),
    "broken": ("broken: right at first, wrong at last", lambda group, ends: _went(ends, group) == "broken"),
    "still wrong": ("still wrong", lambda group, ends: _went(ends, group) == "still wrong"),
    "still right": ("still right", lambda group, ends: _went(ends, group) == "still right"),
}


def _went(ends: Ends, group: Group) -> str:
    """Where the group's problem went, if anywhere: half of the completions right is right."""
    first, last = (share >= 0.5 for share in ends(group.pid))
    return ("still right" if last else "still wrong") if first == last else "fixed" if last else "broken"


FILTERS = {name: label for name, (label, _) in _FILTERS.items()}
CHANGES = {name: label for name, (label, _) in _CHANGES.items()}


def _paid(row: Mapping) -> float:
    """The reward, 1 or 0 for right or wrong where there is none."""
    reward = row.get("reward")
    return float(reward) if isinstance(reward, (int, float)) else float(bool(row.get("correct")))


def _lengths(group: Group) -> list[int]:
    return [row.get("length") or 0 for row in group.rows]


# Sorted by these in ascending order; equal groups stay in the order of sampling.
_ORDERS: dict[str, tuple[str, Callable[[Group], float]]] = {
    "sampled": ("as sampled", lambda group: 0.0),
    "spread": ("largest spread of rewards", lambda group: -_spread([_paid(row) for row in group.rows])),
    "advantage": (
        "largest |advantage|",
        lambda group: -max(abs(row.get("advantage") or 0.0) for row in group.rows),
    ),
    "longest": ("longest completion", lambda group: -max(_lengths(group))),
    "shortest": ("shortest completion", lambda group: min(_lengths(group))),
    "best paid": ("highest mean reward", lambda group: -sum(map(_paid, group.rows)) / len(group.rows)),
    "worst paid": ("lowest mean reward", lambda group: sum(map(_paid, group.rows)) / len(group.rows)),
}
ORDERS = {name: label for name, (label, _) in _ORDERS.items()}


def _spread(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5


ROLES = {
    "rollout": "sampled while training",
    "probe": "the same problem through training",
    "evaluation": "before and after training",
}


class SampleStore:
    """Reads `samples.jsonl` of a finished or a running run.

    `refresh()` takes in what was written since. Groups are numbered from 0 in the order of sampling, and `len(store)`
    counts completions.

    Args:
        path: a run directory.
        role: a key of `ROLES`: "rollout" for what was trained on, a group for each prompt and step; "probe" for the
            probes and "evaluation" for `predictions.jsonl`, a group for each problem, early or before to late or after.
    """

    def __init__(self, path: str | os.PathLike, role: str = "rollout"):
        self.role = role
        self.folder = Path(path)
        run = RunDirectory(path)
        self.path = run.predictions_path if role == "evaluation" else run.samples_path
        self._clear()
        self.refresh()

    def _clear(self) -> None:
        self._groups: list[Group] = []
        self._visits: dict[str, list[Group]] = {}  # a problem's groups; of a probe or an evaluation there is one
        self._end, self._last = 0, b""

    def __len__(self) -> int:
        return sum(len(group.rows) for group in self._groups)

    def refresh(self) -> int:
        """Take in the lines written since the last look; gives how many. A file begun anew is read from its start."""
        if not self.path.exists():
            self._clear()
            return 0
        before = len(self)
        with open(self.path, "rb") as file, without_collecting():
            file.seek(self._end - len(self._last))
            if file.read(len(self._last)) != self._last:
                self._clear()
                before = 0
            file.seek(self._end)
            for block in line_blocks(file):
                self._end, self._last = self._end + len(block), block[block.rfind(b"\n", 0, -1) + 1 :]
                if self.role == "probe":  # a few among many: not worth reading the others
                    block = b"".join(_holding(b'"probe"', block))
                for row in json_of_lines(block) if block else ():
                    self._take_in(row)
        return len(self) - before

    def _take_in(self, row: Any) -> None:
        try:
            pid = row["pid"]
            name, step = (pid, 0) if self.role == "evaluation" else (row["group"], row["step"])
        except (KeyError, TypeError):  # not a row of ours
            return
        if self.role != "evaluation" and row.get("role", "rollout") != self.role:
            return
        if self.role != "rollout" and pid in self._visits:
            group = self._visits[pid][0]
        elif self._groups and self._groups[-1].name == name:
            group = self._groups[-1]
        else:
            group = Group(name if self.role == "rollout" else pid, step, pid, row.get("kind"))
            self._groups.append(group)
            self._visits.setdefault(pid, []).append(group)
        group.rows.append(row)

    def _ends(self, pid: str) -> tuple[float, float]:
        """Shares of right completions at this problem's first and last visit."""
        visits = self._visits[pid]
        if self.role == "rollout":
            return visits[0].share, visits[-1].share
        rows = visits[0].rows
        turns = [row.get("phase", row.get("step")) for row in rows]
        first, last = ([row for row, turn in zip(rows, turns, strict=True) if turn == turns[at]] for at in (0, -1))
        return share_right(first), share_right(last)

    @property
    def filters(self) -> dict[str, str]:
        """What `groups(show=...)` can be asked for, with labels."""
        return FILTERS if self.role == "rollout" else CHANGES

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
        holds: Callable[[Mapping], bool] | None = None,
        order: str = "sampled",
    ) -> list[int]:
        """Numbers of the groups that match every condition given.

        Args:
            step: optimiser step of the rollout.
            pid: one problem, through training.
            kind: problem kind.
            show: a key of `filters`. "wrong to right": the problem was met more than once, first with less than half of
                its completions right, last with at least half; "right to wrong" the other way.
            text: found in id, question, answer, any completion or its reason, whatever the case.
            holds: of any of the completions.
            order: a key of `ORDERS`.
        """
        for name, given, known in (("show", show, self.filters), ("order", order, ORDERS)):
            if given not in known:
                listed = ", ".join(map(repr, known))
                raise ValueError(f"{name}={given!r} is not one of {listed}{did_you_mean(given, known)}")
        matches = (_FILTERS if self.role == "rollout" else _CHANGES)[show][1]
        ends, wanted = cache(self._ends), text.strip().casefold()
        found = [
            number
            for number, group in enumerate(self._groups)
            if step in (None, group.step)
            and pid in (None, group.pid)
            and kind in (None, group.kind)
            and matches(group, ends)
            and (holds is None or any(map(holds, group.rows)))
            and (not wanted or any(wanted in _searchable(row) for row in group.rows))
        ]
        by = _ORDERS[order][1]
        return found if order == "sampled" else sorted(found, key=lambda number: round(by(self._groups[number]), 3))

    def visits(self, pid: str) -> list[Group]:
        """The groups of one problem, in the order of sampling."""
        return self._visits.get(pid, [])

    def group(self, number: int) -> Group:
        """Group `number`, from 0."""
        return self._groups[number]


def _holding(word: bytes, block: bytes) -> list[bytes]:
    return [line for line in block.splitlines(keepends=True) if word in line] if word in block else []


_SEARCHED = ("pid", "question", "answer", "completion", "reason")


def _searchable(row: Mapping) -> str:
    return "\n".join(str(row.get(key) or "") for key in _SEARCHED).casefold()
