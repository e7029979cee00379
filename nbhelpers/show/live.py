"""TODO."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nbhelpers.runs import RunDirectory, SampleStore
from nbhelpers.show.pages import environment, in_notebook, is_interactive, macro, note
from nbhelpers.show.pictures import picture_uri
from nbhelpers.show.samples import delimiters_of_run


def live_view(run_dir: str | os.PathLike, total_steps: int | None = None) -> LiveView:
    """A live view of the training that writes to `run_dir`; use it in a `with` block.

        with live_view(run.path) as view:
            train(policy, problems, params, run, on_log=view.update)

    For training in other processes: `view.follow(process.poll)`.
    """
    return LiveView(run_dir, total_steps)


class LiveView:
    """Progress and curves while training: one display that is updated in place, or about 20 lines where nobody watches.

    `plots.training_overview` draws the whole run afterwards.

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
        self._store: SampleStore | None = None

    def __enter__(self) -> LiveView:
        self._begun = time.monotonic()
        self._interactive = is_interactive()
        if self._interactive:
            from IPython.display import HTML, display

            self._handle = display(HTML(in_notebook(note("Waiting for the first step \u2026"))), display_id=True)
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self._interactive:
            self._draw_or_fall_back(done=error is None)
        elif self.rows and self.rows[-1]["step"] != self._printed_step:
            self._print(self.rows[-1])

    def update(self, row: Mapping | None = None) -> None:
        """Takes in one row of `metrics.jsonl`, or reads the file again where none is given.

        A redraw costs milliseconds and happens at most every two seconds, so this may be called at each step.
        """
        if row is None:
            self.rows = self.run.read_jsonl(self.run.metrics_path)
        else:
            if not self.rows:  # a resumed run: the curve begins where the run did
                self.rows = [
                    earlier for earlier in self.run.iter_jsonl(self.run.metrics_path) if earlier["step"] < row["step"]
                ]
            self.rows.append(dict(row))
        if not self.rows:
            return
        self.total_steps = self.rows[-1].get("max_steps") or self.total_steps
        if self._interactive:
            # A slow front end or a huge run must not slow the training: drawing takes at most a twentieth of the time.
            if time.monotonic() - self._drawn_at >= max(self.SECONDS, 20 * self._cost):
                self._draw_or_fall_back()
        else:
            self._print_if_due(self.rows[-1])

    def follow(self, poll: Callable[[], Any], every: float = 1.0) -> Any:
        """Watches `metrics.jsonl` until `poll()` gives something else than None, and gives that; for
        `subprocess.Popen.poll`.
        """
        while (result := poll()) is None:
            self.update()
            time.sleep(every)
        self.update()
        return result

    def _draw_or_fall_back(self, done: bool = False) -> None:
        """Looking on must not end hours of training: where drawing fails, lines are printed from here on."""
        try:
            self._draw(done)
        except Exception as error:
            self._interactive = False
            print(f"The live view stopped ({type(error).__name__}: {error}); training goes on.", flush=True)

    # what nobody watches

    def _print_if_due(self, row: Mapping) -> None:
        step = row["step"]
        if self.total_steps:
            due = step >= self._printed_step + max(1, self.total_steps / self.LINES) or step == self.total_steps
        else:
            due = step >= self._printed_step * 1.3  # without an end in sight, ever more rarely
        if step > self._printed_step and (due or not self._printed_step):
            self._print(row)

    def _print(self, row: Mapping) -> None:
        self._printed_step = row["step"]
        names = [key.split("/")[1] for key in row if key.startswith("rewards/") and key.endswith("/mean")]
        parts = ", ".join(f"{name} {_short(row[f'rewards/{name}/mean'])}" for name in names)
        words = [f"step {row['step']}" + (f"/{self.total_steps}" if self.total_steps else "")]
        words += [f"reward {_short(row.get('reward'))}" + (f" ({parts})" if parts else "")]
        for key, label, unit in (
            ("frac_reward_zero_std", "zero variance", "%"),
            ("completions/mean_length", "length", ""),
            ("completions/clipped_ratio", "cut off", "%"),
            ("entropy", "entropy", ""),
            ("kl", "KL", ""),
        ):
            value, usually_zero = row.get(key), label in ("cut off", "KL")
            if isinstance(value, (int, float)) and (value or not usually_zero):
                words.append(f"{label} {_percent(value) if unit == '%' else _short(value)}{unit}")
        left = self._seconds_left()
        words += [f"{_clock(left)} left"] if left else []
        print("  ".join(words), flush=True)

    # what a person sees

    def _seconds_left(self) -> float | None:
        if not self.total_steps or not self.rows:
            return None
        last = self.rows[-1]
        pace = last.get("seconds_per_step")
        if pace is None:
            times = [(row["time"], row["step"]) for row in self.rows[-20:] if "time" in row]
            if len(times) > 1 and times[-1][1] > times[0][1]:
                pace = (times[-1][0] - times[0][0]) / (times[-1][1] - times[0][1])
            else:
                pace = statistics.median([row["step_time"] for row in self.rows[-20:] if row.get("step_time")] or [0])
        return max(0.0, (self.total_steps - last["step"]) * pace)

    def _draw(self, done: bool = False) -> None:
        from IPython.display import HTML

        begun = time.monotonic()
        self._handle.update(HTML(in_notebook(self._page(done))))
        self._drawn_at = time.monotonic()
        self._cost = self._drawn_at - begun

    def _page(self, done: bool) -> str:
        if not self.rows:
            return note("No step was logged.")
        last, left = self.rows[-1], self._seconds_left()
        step = f"step {last['step']}" + (f" of {self.total_steps}" if self.total_steps else "")
        elapsed = f"{_duration(time.monotonic() - self._begun)} so far"
        finished = done and (not self.total_steps or last["step"] >= self.total_steps)
        body = (
            environment()
            .get_template("live.html")
            .render(
                headline=f"Training done: {step}" if finished else f"Training: {step}",
                timing=elapsed if finished or left is None else f"{elapsed}, about {_duration(left)} left",
                share=min(1.0, last["step"] / self.total_steps) if self.total_steps else 0.0,
                tiles=self._tiles(),
                why_loss=(
                    "The loss is near 0 by construction: a group's advantages sum to 0 and the importance ratio of fresh "
                    "completions is 1. Its gradient is not 0. Watch the reward."
                ),
            )
        )
        return body + self._newest_group()

    def _tiles(self) -> list[dict]:
        last = self.rows[-1]
        functions = [key.split("/")[1] for key in last if key.startswith("rewards/") and key.endswith("/mean")]
        wanted = [("reward", "reward, total", "", "reward")]
        wanted += [(f"rewards/{name}/mean", f"reward: {name}", "", "reward") for name in functions]
        wanted += [
            ("reward_std", "spread inside a group", "std", ""),
            ("frac_reward_zero_std", "zero-variance groups", "%", "alarm"),
            ("completions/mean_length", "completion length", "tokens", ""),
            ("completions/clipped_ratio", "cut off at the limit", "%", "alarm"),
            ("entropy", "entropy", "nats a token", ""),
            ("kl", "KL to the reference", "nats a token", ""),
            ("loss", "loss", "", "loss"),
        ]
        tiles = []
        for key, label, unit, role in wanted:
            values = [
                row[key] for row in self.rows if isinstance(row.get(key), (int, float)) and math.isfinite(row[key])
            ]
            if values:
                shown = _percent(values[-1]) if unit == "%" else _short(values[-1])
                tiles.append({"label": label, "value": shown, "unit": unit, "role": role, "points": sparkline(values)})
        return tiles

    def _newest_group(self) -> str:
        """One group of the last step, with a right and a wrong completion where there is one: what the numbers are made
        of.
        """
        if not self.run.samples_path.exists():
            return ""
        if self._store is None:
            self._store = SampleStore(self.run.path)
        self._store.refresh()
        if not len(self._store):
            return ""
        step = self._store.steps[-1]
        number = (self._store.groups(step=step, show="mixed") or self._store.groups(step=step))[0]
        rows = self._store.completions(number)[:4]
        picture = picture_uri(str(self._store.folder), rows[0].get("image"))
        group = macro("group")(rows, picture, delimiters_of_run(self.run.path))
        return f"<h3>A group of step {step}</h3>{group}"


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


def _short(value: Any) -> str:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return "\u2013"
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{round(value, decimals) + 0.0:.{decimals}f}"  # + 0.0: no "-0.00"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
