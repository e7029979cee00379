"""Watching a run while it trains: one display that changes in place, or a few lines where nobody watches."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
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
    shown_by,
)
from nbhelpers.show.pages import in_notebook, is_interactive, note, template
from nbhelpers.show.samples import group_card, telling_group
from nbhelpers.training import alarms

_ROLES = {"frac_reward_zero_std": "alarm", "completions/clipped_ratio": "alarm", "loss": "loss"}  # a tile's colour

_STAGES = (
    "Preparing the problems, the model and the trainer",
    "Asking the probes, before anything is learnt",
    "Sampling and learning the first step",
)


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
        self._over = threading.Event()
        self._shown = contextlib.ExitStack()
        self._doing: dict[str, tuple[float, bool]] = {}  # what takes long before the first step: seconds, whether done
        self.end, self.why = "", ""  # how it ended and when; what ended it early

    def __enter__(self) -> LiveView:
        self._begun, self._opened = time.monotonic(), time.time()
        self._interactive = is_interactive()
        if self._interactive:
            from IPython.display import HTML, display

            self._handle = display(HTML(in_notebook(self._waiting())), display_id=True)
            self._shown.enter_context(shown_by(self._take_stage))
            threading.Thread(target=self._wait, daemon=True).start()
        else:
            print(f"{_STAGES[0]} \u2026", flush=True)
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._over.set()
        self._shown.close()
        if error is None and not self.rows:  # nothing was left to train
            self.rows = self.run.read_jsonl(self.run.metrics_path)
        last = self.rows[-1]["step"] if self.rows else 0
        at = f"at {datetime.now():%H:%M:%S}, after {duration(time.monotonic() - self._begun)}"
        self.end = f"done {at}" if error is None else f"stopped by {kind.__name__} {at}"
        self.why = f"{datetime.now():%H:%M}: {str(error) or kind.__name__}" if error else ""
        if self._interactive:
            self._draw()
            return
        if self.rows and last != self._printed_step:
            self._print()
        print(f"Training {self.end}.", flush=True)

    # before the first step

    def _stage(self) -> int:
        """Which of `_STAGES` the run is in, by what it has left on the disk since this view was opened."""
        path = self.run.samples_path
        fresh = path.is_file() and path.stat().st_mtime >= self._opened
        return 0 if not fresh else 2 if path.stat().st_size else 1

    def _take_stage(self, name: str, seconds: float, done: bool) -> None:
        self._doing[name] = (seconds, done)

    def _waiting(self) -> str:
        doing = [
            f"{name} {'' if done else '… '}{duration(seconds)}"
            for name, (seconds, done) in dict(self._doing).items()
            if seconds >= 1 or not done
        ]
        return template("waiting.html").render(
            stages=_STAGES, now=self._stage(), doing=doing, elapsed=duration(time.monotonic() - self._begun)
        )

    def _wait(self) -> None:
        """Redraws the stages with their clock until a step is there; looking on must not end a training."""
        from IPython.display import HTML

        while not self._over.wait(1.0) and not self.rows:
            try:
                self._handle.update(HTML(in_notebook(self._waiting())))
            except Exception:
                return

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

    def _draw(self) -> None:
        from IPython.display import HTML

        begun = time.monotonic()
        try:
            self._handle.update(HTML(in_notebook(self._page())))
        except Exception as error:  # looking on must not end hours of training: lines are printed from here on
            self._interactive = False
            print(f"The live view stopped ({type(error).__name__}: {error}); training goes on.", flush=True)
        self._drawn_at, self._cost = time.monotonic(), time.monotonic() - begun

    def _page(self) -> str:
        """Progress and curves; `why` is what ended training early, and when."""
        if not self.rows:
            return note(f"Training {self.end or 'has not begun'}: no step was logged. {self.why}")
        last, left = self.rows[-1], seconds_left(self.rows[-1], self.total_steps)
        step = f"step {last['step']}" + (f" of {self.total_steps}" if self.total_steps else "")
        elapsed = f"{duration(time.monotonic() - self._begun)} so far"
        running = elapsed if left is None else f"{elapsed}, about {duration(left)} left"
        body = template("live.html").render(
            headline=f"Training{' stopped' if self.why else ' done' if self.end else ''}: {step}",
            why=self.why,
            timing=self.end or running,
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
            drawn = {"points": sparkline(values), "trend": sparkline(values, smoothed=True)}
            scale = [metric.text(value) for value in (max(values), min(values))] if len(values) > 1 else []
            tiles.append({**shown, "role": role, "scale": scale, **drawn})
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
    """A line in the notebook, "48 of 64 problems answered, 3 s, about 1 s left", and the function that adds to it."""
    tell, done = _line(total, what), 0

    def add(more: int) -> None:
        nonlocal done
        done += more
        tell(done)

    return add


def evaluation_progress() -> Callable[[str, int, int], None]:
    """For `evaluate(..., progress=...)`: a line for each phase that counts up, with the time left; a bar in a terminal;
    where nobody watches, a log line at each quarter.
    """
    begin = _line if is_interactive() else _bar if sys.stderr.isatty() else _quarters
    tell: dict[str, Callable[[int], None]] = {}

    def progress(phase: str, done: int, total: int) -> None:
        if phase not in tell:
            tell[phase] = begin(total, f"problems answered, {phase}")
        tell[phase](done)

    return progress


def _line(total: int, what: str) -> Callable[[int], None]:
    from IPython.display import display

    begun = time.monotonic()

    def line(done: int) -> dict:
        return {"text/plain": how_far(done, total, what, time.monotonic() - begun)}

    shown = display(line(0), raw=True, display_id=True)
    return lambda done: shown.update(line(done), raw=True)


def _bar(total: int, what: str) -> Callable[[int], None]:
    from tqdm import tqdm

    bar = tqdm(total=total, desc=what, unit="problem")

    def tell(done: int) -> None:
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return tell


def _quarters(total: int, what: str) -> Callable[[int], None]:
    begun, told, quarter = time.monotonic(), 0, max(1, total // 4)

    def tell(done: int) -> None:
        nonlocal told
        if done == total or done // quarter > told // quarter:
            print(how_far(done, total, what, time.monotonic() - begun), flush=True)
        told = done

    return tell


def how_far(done: int, total: int, what: str, seconds: float) -> str:
    left = f", about {duration(seconds / done * (total - done))} left" if 0 < done < total else ""
    return f"{done:,} of {total:,} {what}, {duration(seconds)}{left}"


def sparkline(values: Sequence[float], smoothed: bool = False) -> str:
    """`points` of an SVG polyline, 100 by 34, on the scale of the values as logged; long series are thinned to two
    hundred points.

    `smoothed` draws the moving average over an eighth of the series; nothing where that is a single value.
    """
    window = len(values) // 8
    if len(values) < 2 or (smoothed and window < 2):
        return ""
    low, high = min(values), max(values)
    if smoothed:
        from nbhelpers.show.figures import smooth

        values = smooth(values, window).tolist()
    if len(values) > 200:
        values = [values[place * (len(values) - 1) // 199] for place in range(200)]
    step, reach = 100 / (len(values) - 1), (high - low) or 1.0
    return " ".join(f"{place * step:.1f},{32 - 30 * (value - low) / reach:.1f}" for place, value in enumerate(values))
