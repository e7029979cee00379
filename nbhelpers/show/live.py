"""Watching a run while it trains: one display that changes in place, or a few lines where nobody watches."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from nbhelpers.runs import (
    LOSS_MEANS,
    RunDirectory,
    SampleStore,
    duration,
    logged,
    metrics_shown,
    progress_line,
    seconds_left,
)
from nbhelpers.show.pages import in_notebook, is_interactive, note, template
from nbhelpers.show.samples import group_card, telling_group
from nbhelpers.training import alarms

_ROLES = {"frac_reward_zero_std": "alarm", "completions/clipped_ratio": "alarm", "loss": "loss"}  # a tile's colour


class LiveView:
    """Progress and curves while training: one display that is updated in place, or about 20 lines where nobody watches.

        with live_view(run.path) as view:
            train(policy, problems, params, run, on_log=view.update)

    `training_overview` draws the whole run afterwards.

    Args:
        run_dir: where `metrics.jsonl` and `samples.jsonl` grow.
        total_steps: optimiser steps of the whole run; taken from the rows' `max_steps` where they have one.
    """

    LINES = 20
    SECONDS = 2.0

    def __init__(self, run_dir: str | os.PathLike, total_steps: int | None = None):
        self.run = RunDirectory(run_dir)
        self.total_steps = total_steps
        self.rows: list[dict] = []
        self._handle = None
        self._drawn_at = -math.inf
        self._cost = 0.0
        self._printed_step = 0
        self._store = SampleStore(self.run.path)

    def __enter__(self) -> LiveView:
        self._begun = time.monotonic()
        self._interactive = is_interactive()
        if self._interactive:
            from IPython.display import HTML, display

            self._handle = display(HTML(in_notebook(note("Waiting for the first step \u2026"))), display_id=True)
        return self

    def __exit__(self, kind, error, trace) -> None:
        if error is None and not self.rows:  # nothing was left to train
            self.rows = self.run.read_jsonl(self.run.metrics_path)
        if self._interactive:
            said = str(error) or kind.__name__ if error else ""
            self._draw(done=error is None, why=f"{datetime.now():%H:%M}: {said}" if error else "")
        elif self.rows and self.rows[-1]["step"] != self._printed_step:
            self._print()

    def update(self, row: Mapping) -> None:
        """Takes in one row of `metrics.jsonl`.

        A redraw costs milliseconds and happens at most every two seconds, so this may be called at each step.
        """
        if not self.rows:  # a resumed run: the curve begins where the run did
            earlier = self.run.read_jsonl(self.run.metrics_path)
            self.rows = [other for other in earlier if other["step"] < row["step"]]
        self.rows.append(dict(row))
        self.total_steps = row.get("max_steps") or self.total_steps
        if not self._interactive:
            self._print_if_due(row["step"])
        # A slow front end or a huge run must not slow the training: drawing takes at most a twentieth of the time.
        elif time.monotonic() - self._drawn_at >= max(self.SECONDS, 20 * self._cost):
            self._draw()

    # what nobody watches

    def _print_if_due(self, step: int) -> None:
        if self.total_steps:
            due = step >= self._printed_step + max(1, self.total_steps / self.LINES) or step == self.total_steps
        else:
            due = step >= self._printed_step * 1.3  # without an end in sight, ever more rarely
        if step > self._printed_step and (due or not self._printed_step):
            self._print()

    def _print(self) -> None:
        self._printed_step = self.rows[-1]["step"]
        print(progress_line(self.rows[-1], self.total_steps), flush=True)

    # what a person sees

    def _draw(self, done: bool = False, why: str = "") -> None:
        from IPython.display import HTML

        begun = time.monotonic()
        try:
            self._handle.update(HTML(in_notebook(self._page(done, why))))
        except Exception as error:  # looking on must not end hours of training: lines are printed from here on
            self._interactive = False
            print(f"The live view stopped ({type(error).__name__}: {error}); training goes on.", flush=True)
        self._drawn_at = time.monotonic()
        self._cost = self._drawn_at - begun

    def _page(self, done: bool, why: str = "") -> str:
        """Progress and curves; `why` is what ended training early, and when."""
        if not self.rows:
            return note(f"Training stopped before its first step. {why}" if why else "No step was logged.")
        last, left = self.rows[-1], seconds_left(self.rows[-1], self.total_steps)
        step = f"step {last['step']}" + (f" of {self.total_steps}" if self.total_steps else "")
        elapsed = f"{duration(time.monotonic() - self._begun)} so far"
        finished = done and (not self.total_steps or last["step"] >= self.total_steps)
        body = template("live.html").render(
            headline=f"Training{' stopped' if why else ' done' if finished else ''}: {step}",
            why=why,
            timing=elapsed if finished or why or left is None else f"{elapsed}, about {duration(left)} left",
            share=min(1.0, last["step"] / self.total_steps) if self.total_steps else 0.0,
            tiles=self._tiles(),
            loss_means=LOSS_MEANS,
            alarms=alarms(self.rows, self.total_steps),
        )
        return body + self._newest_group()

    def _tiles(self) -> list[dict]:
        tiles = []
        for metric in metrics_shown("tile", self.rows):
            values = [row[metric.key] for row in self.rows if logged(row, metric.key)]
            role = _ROLES.get(metric.key, "reward" if metric.unit == "per completion" else "")
            shown = {"label": metric.label, "value": metric.text(values[-1]), "unit": metric.unit}
            tiles.append({**shown, "role": role, "points": sparkline(values)})
        return tiles

    def _newest_group(self) -> str:
        """One group of the last step: what the numbers are made of."""
        self._store.refresh()
        if not len(self._store):
            return ""
        step = self._store.steps[-1]
        return f"<h3>A group of step {step}</h3>{group_card(self._store, telling_group(self._store, step), limit=4)}"


live_view = LiveView  # as a `with` statement reads best


def count_up(total: int, what: str) -> Callable[[int], None]:
    """A line in the notebook, "48 of 64 problems answered, 3 s", and the function that adds to its count."""
    from IPython.display import display

    done, begun = 0, time.monotonic()

    def line() -> dict:
        return {"text/plain": f"{done:,} of {total:,} {what}, {duration(time.monotonic() - begun)}"}

    def add(more: int) -> None:
        nonlocal done
        done += more
        shown.update(line(), raw=True)

    shown = display(line(), raw=True, display_id=True)
    return add


def sparkline(values: Sequence[float], width: float = 100, height: float = 34) -> str:
    """`points` of an SVG polyline; long series are thinned to two hundred points."""
    if len(values) < 2:
        return ""
    if len(values) > 200:
        values = [values[place * (len(values) - 1) // 199] for place in range(200)]
    low, high = min(values), max(values)
    reach = (high - low) or 1.0
    step = width / (len(values) - 1)
    return " ".join(
        f"{place * step:.1f},{height - 2 - (value - low) / reach * (height - 4):.1f}"
        for place, value in enumerate(values)
    )
