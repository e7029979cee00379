"""The viewer of notebook 03: every completion of a run, with the script of `samples.html` and the run behind it."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

from nbhelpers.grading import error_kind
from nbhelpers.params import counted, did_you_mean
from nbhelpers.runs import ROLES, earned_the_same
from nbhelpers.show.packing import Packer, keep_mark, problem_of, read_marks
from nbhelpers.show.pages import TEMPLATES, is_interactive, style_of
from nbhelpers.show.pictures import picture_uri
from nbhelpers.show.samples import changed_minds, probe_strips, show_samples


class SampleViewer:
    """Read a run's completions: what was sampled, the same problem through training, answers before and after.

    The last expression of a cell shows it; where nobody is there to click, a few are shown instead. Its line of keys
    says how to move; marks are kept in the run directory.

    Args:
        run_dir: a finished or a running run.
        role: what is looked at first: "rollout" for what was sampled while training, "probe" for the same problem
            through training, "evaluation" for answers before and after.
    """

    def __init__(self, run_dir: str | os.PathLike, role: str = "rollout"):
        if role not in ROLES:
            raise ValueError(f"role={role!r} is not one of {', '.join(map(repr, ROLES))}{did_you_mean(role, ROLES)}")
        self._role = role
        self._packer = Packer(run_dir)
        self.store = self._packer.stores["rollout"]

    def _repr_mimebundle_(self, include=None, exclude=None, **kwargs):
        if is_interactive():
            return self.widget._repr_mimebundle_(include=include, exclude=exclude, **kwargs)
        folder = self.store.folder
        if self._role == "rollout":
            page = show_samples(folder, step=-1 if len(self.store) else None)
        else:
            page = probe_strips(folder) if self._role == "probe" else changed_minds(folder)
        return {"text/html": str(page), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"SampleViewer({str(self.store.folder)!r}): {counted(len(self.store), 'completion')}"

    @cached_property
    def widget(self):
        """The widget (anywidget), made when first asked for."""
        import anywidget
        import traitlets

        script = "".join(
            (TEMPLATES / name).read_text(encoding="utf-8") for name in ("cards.js", "browser.js", "kernel_source.js")
        )

        class Reader(anywidget.AnyWidget):
            _esm = script
            _css = style_of("notebook", "samples", "words", "browser")
            info = traitlets.Dict().tag(sync=True)

        made = Reader(info=self._packer.info() | {"first": self._role})
        made.on_msg(lambda widget, message, buffers: widget.send({"id": message["id"], "answer": self.answer(message)}))
        return made

    def refresh(self) -> int:
        """Takes in what a running run has written since; gives the number of new completions."""
        return self._packer.refresh()

    def answer(self, message: dict[str, Any]) -> Any:
        """What the script asks for: to find groups, to have them, to keep a mark, or to look at the run again."""
        if message["ask"] == "find":
            return self._find(message["state"], message["key"], message["step"])
        if message["ask"] == "groups":
            return [self._group(message["role"], number, message["pictures"]) for number in message["numbers"]]
        if message["ask"] == "keep":
            return keep_mark(self._packer.run, message["key"], message["note"])
        self.refresh()
        return self._packer.info()

    def _find(self, state: dict[str, str], key: str | None, step: int | None) -> dict[str, Any]:
        role, store = state["role"], self._packer.stores[state["role"]]
        numbers = store.groups(
            step=int(state["step"]) if state["step"] else None,
            pid=state["pid"] or None,
            kind=state["kind"] or None,
            show=state["show"],
            text=state["text"],
            holds=(lambda row: error_kind(row) == state["error"]) if state["error"] else None,
            order=state["order"],
        )
        if state["marked"]:
            marked = {mark.rpartition("/")[0] for mark in read_marks(self._packer.run)}
            numbers = [number for number in numbers if f"{role}/{store.group(number).name}" in marked]
        groups = [store.group(number) for number in numbers]
        places = [place for place, group in enumerate(groups) if f"{role}/{group.name}" == key]
        if not places and step is not None:
            places = [place for place, group in enumerate(groups) if group.step >= step]
        return {"numbers": numbers, "place": places[0] if places else 0}

    def _group(self, role: str, number: int, pictures: bool) -> dict[str, Any]:
        store = self._packer.stores[role]
        group = store.group(number)
        return {
            "key": f"{role}/{group.name}",
            "step": group.step if role == "rollout" else None,
            "problem": problem_of(group.rows[0]),
            "picture": picture_uri(store.folder, group.rows[0].get("image")) if pictures else None,
            "visits": len(store.visits(group.pid)),
            "flat": role == "rollout" and earned_the_same(group.rows),
            "rows": self._packer.rows(role, number),
        }
