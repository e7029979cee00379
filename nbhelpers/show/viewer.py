"""TODO."""

from __future__ import annotations

import os
from pathlib import Path

from nbhelpers.runs import FILTERS, SampleStore
from nbhelpers.show.pages import in_notebook, is_interactive, macro, note
from nbhelpers.show.pictures import picture_uri
from nbhelpers.show.samples import delimiters_of_run, show_samples


class SampleViewer:
    """Click through a run's completions: sliders for step and problem, filters, text search, one problem through
    training.

    The last expression of a cell shows it; where nobody is there to click, two groups of the last step are shown
    instead. Tab moves between the controls, the arrow keys move a slider.

    Args:
        run_dir: a finished or a running run.
    """

    def __init__(self, run_dir: str | os.PathLike):
        self.run_dir = Path(run_dir)
        self.store = SampleStore(run_dir)
        self._widget = None

    @property
    def widget(self):
        """The ipywidgets box, made when first asked for."""
        if self._widget is None:
            self._build()
        return self._widget

    def _repr_mimebundle_(self, include=None, exclude=None, **kwargs):
        if is_interactive():
            return self.widget._repr_mimebundle_(include=include, exclude=exclude, **kwargs)
        page = show_samples(self.run_dir, step=-1 if len(self.store) else None)
        return {"text/html": str(page), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"SampleViewer({str(self.run_dir)!r}): {len(self.store):,} completions"

    def _build(self) -> None:
        import ipywidgets as widgets

        def wide(width: str) -> dict:
            return {"style": {"description_width": "56px"}, "layout": widgets.Layout(width=width)}

        self._show = widgets.Dropdown(
            options=[(label, key) for key, label in FILTERS.items()], description="show", **wide("310px")
        )
        self._kind = widgets.Dropdown(options=[("every kind", "")], description="kind", **wide("190px"))
        self._text = widgets.Text(
            placeholder="question, answer, completion", description="search", continuous_update=False,
            tooltip="press Enter to search", **wide("290px"),
        )  # fmt: skip
        self._through = widgets.Checkbox(
            description="this problem through training", indent=False, layout=widgets.Layout(width="auto"),
            tooltip="keep the problem; the step slider moves through its visits",
        )  # fmt: skip
        self._step = widgets.SelectionSlider(options=[("\u2013", 0)], description="step", **wide("460px"))
        self._problem = widgets.IntSlider(min=1, max=1, description="problem", **wide("460px"))
        self._previous = widgets.Button(
            description="\u2039 previous", tooltip="the group before", layout=widgets.Layout(width="96px")
        )
        self._next = widgets.Button(
            description="next \u203a", tooltip="the next group", layout=widgets.Layout(width="96px")
        )
        self._again = widgets.Button(
            description="refresh",
            tooltip="take in what a running run has written since",
            layout=widgets.Layout(width="96px"),
        )
        self._status = widgets.HTML()
        self._page = widgets.HTML()
        row = widgets.Layout(flex_flow="row wrap")
        self._widget = widgets.VBox(
            [
                widgets.Box([self._show, self._kind, self._text], layout=row),
                widgets.Box([self._step, self._previous, self._next], layout=row),
                widgets.Box([self._problem, self._through, self._again], layout=row),
                self._status,
                self._page,
            ]
        )
        for control in (self._show, self._kind, self._text):
            control.observe(lambda change: self._select(), "value")
        self._through.observe(lambda change: self._select(keep=True), "value")
        self._step.observe(lambda change: self._enter_step(), "value")
        self._problem.observe(lambda change: self._draw(), "value")
        self._previous.on_click(lambda button: self._move(-1))
        self._next.on_click(lambda button: self._move(1))
        self._again.on_click(lambda button: self.refresh())
        self._quiet = False
        self._current: int | None = None
        self._fill_kinds()
        self._select()

    def refresh(self) -> int:
        """Takes in what a running run has written since; gives the number of new completions."""
        new = self.store.refresh()
        if self._widget is not None:
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
        """Finds the groups that the filters ask for and sets the sliders to them; `keep` stays at the group on show if
        it can.
        """
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
        if wanted in found:
            step = self.store.group(wanted).step
            self._step.value = step
            self._problem.max = len(self._by_step[step])
            self._problem.value = 1 + self._by_step[step].index(wanted)
        else:
            self._step.index = 0
            self._problem.max = len(self._by_step.get(self._step.value, [0]))
            self._problem.value = 1
        self._quiet = False
        self._draw()

    def _enter_step(self) -> None:
        if self._quiet:
            return
        self._quiet = True
        self._problem.max = len(self._by_step.get(self._step.value, [0]))
        self._problem.value = min(self._problem.value, self._problem.max)
        self._quiet = False
        self._draw()

    def _move(self, by: int) -> None:
        if self._current not in self._found:
            return
        place = min(max(self._found.index(self._current) + by, 0), len(self._found) - 1)
        self._current = self._found[place]
        step = self.store.group(self._current).step
        self._quiet = True
        self._step.value = step
        self._problem.max = len(self._by_step[step])
        self._problem.value = 1 + self._by_step[step].index(self._current)
        self._quiet = False
        self._draw()

    def _draw(self) -> None:
        if self._quiet:
            return
        if not self._found:
            sampled = (
                "No group matches; widen the filters."
                if len(self.store)
                else "No completion has been sampled yet; refresh later."
            )
            self._status.value, self._page.value = "", in_notebook(note(sampled))
            return
        self._current = self._by_step[self._step.value][self._problem.value - 1]
        rows = self.store.completions(self._current)
        picture = picture_uri(str(self.store.folder), rows[0].get("image"))
        place = self._found.index(self._current) + 1
        through = "visit" if self._through.value else "group"
        self._status.value = in_notebook(
            note(f"{through} {place:,} of {len(self._found):,} \u00b7 {len(self.store):,} completions in this run")
        )
        self._page.value = in_notebook(macro("group")(rows, picture, delimiters_of_run(self.store.folder)))
