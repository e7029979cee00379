"""The viewer of notebook 03: every completion of a run, behind sliders and filters."""

from __future__ import annotations

import os
from functools import cached_property

from nbhelpers.runs import FILTERS, SampleStore
from nbhelpers.show.pages import in_notebook, is_interactive, note
from nbhelpers.show.samples import group_card, show_samples


class SampleViewer:
    """Click through a run's completions: sliders for step and problem, filters, text search, one problem through
    training.

    The last expression of a cell shows it; where nobody is there to click, two groups of the last step are shown
    instead. Tab moves between the controls, the arrow keys move a slider.

    Args:
        run_dir: a finished or a running run.
    """

    def __init__(self, run_dir: str | os.PathLike):
        self.store = SampleStore(run_dir)

    def _repr_mimebundle_(self, include=None, exclude=None, **kwargs):
        if is_interactive():
            return self.widget._repr_mimebundle_(include=include, exclude=exclude, **kwargs)
        page = show_samples(self.store.folder, step=-1 if len(self.store) else None)
        return {"text/html": str(page), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"SampleViewer({str(self.store.folder)!r}): {len(self.store):,} completions"

    @cached_property
    def widget(self):
        """The ipywidgets box, made when first asked for."""
        import ipywidgets as widgets

        def wide(width: str, description: str) -> dict:
            layout = widgets.Layout(width=width)
            return {"style": {"description_width": "56px"}, "layout": layout, "description": description}

        def button(description: str, tooltip: str, act) -> widgets.Button:
            made = widgets.Button(description=description, tooltip=tooltip, layout=widgets.Layout(width="96px"))
            made.on_click(lambda _: act())
            return made

        filters = [(label, key) for key, label in FILTERS.items()]
        self._show = widgets.Dropdown(options=filters, **wide("310px", "show"))
        self._kind = widgets.Dropdown(options=[("every kind", "")], **wide("190px", "kind"))
        self._text = widgets.Text(
            placeholder="question, answer, completion", continuous_update=False, tooltip="press Enter to search",
            **wide("290px", "search"),
        )  # fmt: skip
        self._through = widgets.Checkbox(
            description="this problem through training", indent=False, layout=widgets.Layout(width="auto"),
            tooltip="keep the problem; the step slider moves through its visits",
        )  # fmt: skip
        self._step = widgets.SelectionSlider(options=[("\u2013", 0)], **wide("460px", "step"))
        self._problem = widgets.IntSlider(min=1, max=1, **wide("460px", "problem"))
        self._previous = button("\u2039 previous", "the group before", lambda: self._move(-1))
        self._next = button("next \u203a", "the next group", lambda: self._move(1))
        self._again = button("refresh", "take in what a running run has written since", self.refresh)
        self._status = widgets.HTML()
        self._page = widgets.HTML()
        rows = ([self._show, self._kind, self._text], [self._step, self._previous, self._next])
        rows = (*rows, [self._problem, self._through, self._again])
        boxes = [widgets.Box(row, layout=widgets.Layout(flex_flow="row wrap")) for row in rows]
        for control in (self._show, self._kind, self._text):
            control.observe(lambda change: self._select(), "value")
        self._through.observe(lambda change: self._select(keep=True), "value")
        self._step.observe(lambda change: self._enter_step(), "value")
        self._problem.observe(lambda change: self._draw(), "value")
        self._quiet = False
        self._current: int | None = None
        self._fill_kinds()
        self._select()
        return widgets.VBox([*boxes, self._status, self._page])

    def refresh(self) -> int:
        """Takes in what a running run has written since; gives the number of new completions."""
        new = self.store.refresh()
        if "widget" in self.__dict__:
            self._fill_kinds()
            self._select(keep=True)
        return new

    def _fill_kinds(self) -> None:
        options = [("every kind", ""), *[(str(kind), kind) for kind in self.store.kinds]]
        if tuple(options) != tuple(self._kind.options):
            chosen, self._quiet = self._kind.value, True
            self._kind.options = options
            self._kind.value = chosen if chosen in self.store.kinds else ""
            self._quiet = False

    def _select(self, keep: bool = False) -> None:
        """Sets the sliders to the groups that the filters ask for; `keep` stays at the one on show if it can."""
        if self._quiet:
            return
        wanted = self._current if keep or self._through.value else None
        if self._through.value and self._current is not None:
            found = self.store.groups(pid=self.store.group(self._current).pid)
        else:
            found = self.store.groups(show=self._show.value, kind=self._kind.value or None, text=self._text.value)
        self._by_step: dict[int, list[int]] = {}
        for group in found:
            self._by_step.setdefault(self.store.group(group).step, []).append(group)
        self._found = found
        self._quiet = True
        self._step.options = list(self._by_step) or [("\u2013", 0)]
        self._step.disabled = not found
        self._quiet = False
        self._go_to(wanted if wanted in found else found[0] if found else None)

    def _go_to(self, group: int | None) -> None:
        """Sets both sliders to this group and shows it."""
        self._quiet = True
        if group is None:
            self._problem.value = self._problem.max = 1
        else:
            self._step.value = self.store.group(group).step
            of_step = self._by_step[self._step.value]
            self._problem.max = len(of_step)
            self._problem.value = 1 + of_step.index(group)
        self._quiet = False
        self._draw()

    def _enter_step(self) -> None:
        if not self._quiet:
            of_step = self._by_step[self._step.value]
            self._go_to(of_step[min(self._problem.value, len(of_step)) - 1])

    def _move(self, by: int) -> None:
        if self._current in self._found:
            self._go_to(self._found[min(max(self._found.index(self._current) + by, 0), len(self._found) - 1)])

    def _draw(self) -> None:
        if self._quiet:
            return
        if not self._found:
            nothing = (
                "No group matches; widen the filters." if len(self.store) else "No completion has been sampled yet."
            )
            self._status.value, self._page.value = "", in_notebook(note(nothing))
            return
        self._current = self._by_step[self._step.value][self._problem.value - 1]
        place, unit = self._found.index(self._current) + 1, "visit" if self._through.value else "group"
        status = f"{unit} {place:,} of {len(self._found):,} \u00b7 {len(self.store):,} completions in this run"
        self._status.value = in_notebook(note(status))
        self._page.value = in_notebook(group_card(self.store, self._current))
