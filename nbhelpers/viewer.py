"""Looking at samples in a notebook: a viewer to click through, tables that need no kernel, a live view of training.

Whatever a model or a data set wrote is text here: templates escape it, and characters that are not seen but change what
is seen (control characters, marks that turn the direction of writing) appear by their number.
"""

from __future__ import annotations

import base64
import io
import math
import os
import re
import statistics
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from nbhelpers.run_directory import RunDirectory
from nbhelpers.samples import FILTERS, SampleStore

TEMPLATES = Path(__file__).resolve().parent / "templates"
DELIMITERS = ("<REASONING>", "</REASONING>", "<SOLUTION>", "</SOLUTION>")
_LONGEST = 200_000  # characters of one text in a page, whatever a model wrote


def is_interactive() -> bool:
    """Whether a person can answer this kernel.

    `NBHELPERS_BATCH` decides where it is set (`nbhelpers run` sets it to 1; 0 says that somebody is there). Otherwise
    the kernel is asked whether its front end takes input: JupyterLab, VS Code and Colab say yes, papermill and
    nbconvert say no. Outside a notebook nobody is there.
    """
    batch = os.environ.get("NBHELPERS_BATCH", "").strip()
    if batch:
        return batch == "0"
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is not None and bool(getattr(kernel, "_allow_stdin", False))


# ---------------------------------------------------------------- text and pictures into HTML


def visible(value: Any) -> Any:
    """Text as escaped markup; each character that is not seen but acts becomes its number in a small box."""
    from markupsafe import Markup, escape

    pieces, plain = [], []
    for char in str(value):
        if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co"):
            plain.append(char)
            continue
        pieces.append(escape("".join(plain)))
        pieces.append(Markup(f'<span class="hidden-char">U+{ord(char):04X}</span>'))
        plain = []
    pieces.append(escape("".join(plain)))
    return Markup("").join(pieces)


def clipped(value: Any, limit: int) -> Any:
    """`visible`, with what goes beyond `limit` characters behind "show all"."""
    from markupsafe import Markup

    text = str(value)
    if len(text) <= limit * 1.2:
        return visible(text)
    rest = f"\n[{len(text) - _LONGEST:,} more characters are not shown]" if len(text) > _LONGEST else ""
    return Markup(
        '{}\u2026<details class="more"><summary>show all {} characters</summary><div class="text">{}{}</div></details>'
    ).format(visible(text[:limit]), f"{len(text):,}", visible(text[:_LONGEST]), rest)


def segments(completion: Any, delimiters: Sequence[str] = DELIMITERS) -> list[tuple[str, str, str]]:
    """A completion in pieces of (role, label, text), nothing left out: role is reasoning, solution or outside.

    This is for the eye and more tolerant than the grader: a block that never closes is shown as one, and labelled so.
    """
    text = str(completion)
    ends = {delimiters[0]: ("reasoning", delimiters[1]), delimiters[2]: ("solution", delimiters[3])}
    opening = re.compile("|".join(re.escape(start) for start in ends))
    pieces: list[tuple[str, str, str]] = []
    place = 0
    while place < len(text):
        found = opening.search(text, place)
        outside = text[place : found.start() if found else len(text)]
        if outside.strip():
            pieces.append(("outside", "outside the blocks", outside.strip()))
        if not found:
            break
        role, end = ends[found.group()]
        stop = text.find(end, found.end())
        label = role if stop >= 0 else f"{role} (never closed)"
        stop = len(text) if stop < 0 else stop
        pieces.append((role, label, text[found.end() : stop].strip()))
        place = stop + len(end)
    return pieces


def number(value: Any) -> str:
    """2.0 as "2", 0.5 as "0.5", None (a reward that could not judge) as "none"."""
    if value is None:
        return "none"
    return f"{value:.3g}" if isinstance(value, (int, float)) else str(value)


def _flat(rows: Sequence[Mapping]) -> bool:
    rewards = [row.get("reward") for row in rows]
    return len(rewards) > 1 and None not in rewards and max(rewards) - min(rewards) < 1e-6


@lru_cache(maxsize=1)
def environment():
    """The jinja2 environment of the project's pages; autoescape is on for every template."""
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    found.filters |= {
        "visible": visible,
        "clipped": clipped,
        "segments": segments,
        "number": number,
        "signed": lambda value: f"{value:+.2f}",
        "letter": lambda place: chr(65 + place) if place < 26 else str(place + 1),
        "flat": _flat,
    }
    return found


def macro(name: str) -> Callable[..., str]:
    """A macro of `samples.html`: `problem`, `completion`, `group` or `pair`."""
    return getattr(environment().get_template("samples.html").module, name)


@lru_cache(maxsize=1)
def _notebook_style() -> str:
    return "".join((TEMPLATES / name).read_text() for name in ("notebook.css", "samples.css", "live.css"))


def _in_notebook(body: str) -> str:
    # The two classes keep MathJax (3 in JupyterLab, 2 in nbconvert's pages) from typesetting "$5 and $6" as a formula.
    return f'<style>{_notebook_style()}</style><div class="nbh mathjax_ignore tex2jax_ignore">{body}</div>'


def encode_image(image: Any, longest: int = 480) -> bytes:
    """A PIL picture as WebP, at most `longest` pixels on a side: drawings of few colours without loss, which is smaller
    for them.
    """
    image = image.convert("RGB")
    image.thumbnail((longest, longest))
    buffer = io.BytesIO()
    if image.getcolors(1024):
        image.save(buffer, "WEBP", lossless=True, quality=20, method=1)  # quality is effort here
    else:
        image.save(buffer, "WEBP", quality=82, method=1)
    return buffer.getvalue()


def data_uri(content: bytes, kind: str = "webp") -> str:
    return f"data:image/{kind};base64," + base64.b64encode(content).decode("ascii")


def load_image(folder: str | os.PathLike, name: Any) -> Any:
    """The picture that a row names, or None. A name that leads out of the run directory is not followed."""
    from PIL import Image

    if not isinstance(name, str):
        return None
    folder = Path(folder).resolve()
    path = (folder / name).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


@lru_cache(maxsize=256)
def _picture(folder: str, name: Any) -> str | None:
    image = load_image(folder, name)
    return None if image is None else data_uri(encode_image(image))


def delimiters_of_run(run_dir: str | os.PathLike) -> tuple[str, ...]:
    """The four delimiters that the run was graded with, from its manifest; the defaults where it names none."""
    reward = ((RunDirectory(run_dir).read_manifest().get("parameters") or {}).get("reward")) or {}
    names = ("reasoning_start", "reasoning_end", "solution_start", "solution_end")
    return tuple(str(reward.get(name) or default) for name, default in zip(names, DELIMITERS, strict=True))


class Page:
    """HTML that a notebook shows as the last expression of a cell; `str(page)` is the markup."""

    def __init__(self, body: str):
        self._body = body

    def __str__(self) -> str:
        return _in_notebook(self._body)

    def _repr_html_(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"<Page of {len(self._body):,} characters>"


def _note(message: str) -> str:
    return f'<p class="note">{visible(message)}</p>'


# ---------------------------------------------------------------- tables that need no kernel


def show_samples(
    source: str | os.PathLike | Iterable[Mapping],
    *,
    step: int | None = None,
    n: int = 2,
    show: str = "all",
    kind: str | None = None,
    images: Sequence[Any] | None = None,
    delimiters: Sequence[str] = DELIMITERS,
) -> Page:
    """Groups of completions beside their pictures, as plain HTML.

    Args:
        source: a run directory, or sample rows (the keys of `samples.jsonl`; missing ones are left out).
        step: optimiser step of the rollout; -1 is the last one sampled, None any.
        n: number of groups; of many that match, evenly spaced ones.
        show: a key of `samples.FILTERS`, for a run directory.
        kind: problem kind, for a run directory.
        images: PIL pictures, one a row, where rows name no file.
        delimiters: the four marks, for rows; a run directory knows its own.
    """
    if isinstance(source, (str, os.PathLike)):
        store = SampleStore(source)
        if not len(store):
            return Page(_note("No completion has been sampled in this run yet."))
        if step is not None and step < 0:
            step = store.steps[step]
        found = store.groups(step=step, show=show, kind=kind)
        if not found:
            return Page(_note(f"No group matches: step {step}, {FILTERS[show]}, kind {kind}."))
        chosen = [found[place * len(found) // min(n, len(found))] for place in range(min(n, len(found)))]
        delimiters = delimiters_of_run(store.folder)
        groups = [store.completions(group) for group in chosen]
        pictures = [_picture(str(store.folder), rows[0].get("image")) for rows in groups]
    else:
        rows = [dict(row) for row in source]
        by_group: dict[Any, list[int]] = {}
        for place, row in enumerate(rows):
            by_group.setdefault(row.get("group", row.get("pid")), []).append(place)
        groups = [[rows[place] for place in places] for places in list(by_group.values())[:n]]
        first = [places[0] for places in list(by_group.values())[:n]]
        own = [images[place] if images is not None else rows[place].get("image") for place in first]
        pictures = [data_uri(encode_image(image.copy())) if hasattr(image, "convert") else None for image in own]
    draw = macro("group")
    return Page(
        "".join(draw(rows, picture, delimiters) for rows, picture in zip(groups, pictures, strict=True))
        or _note("No rows.")
    )


CHANGES = {
    "fixed": "Fixed: wrong before training, right after",
    "broken": "Broken: right before training, wrong after",
    "still wrong": "Still wrong",
}


def sort_changes(predictions: Iterable[Mapping]) -> dict[str, list[tuple[Mapping | None, Mapping]]]:
    """Predictions as (before, after) pairs under "fixed", "broken", "still wrong" and "still right".

    With several samples a problem, the first ones stand for it and the share of right ones decides (half is right).
    Without a baseline a wrong problem counts as still wrong, with None before.
    """
    by_problem: dict[str, dict[str, list[Mapping]]] = {}
    for row in predictions:
        by_problem.setdefault(row["pid"], {}).setdefault(row["phase"], []).append(row)
    result: dict[str, list] = {"fixed": [], "broken": [], "still wrong": [], "still right": []}
    for phases in by_problem.values():
        after = phases.get("after")
        if not after:
            continue
        before = phases.get("before")
        right = _mostly_right(after)
        was = _mostly_right(before) if before else right
        name = {(0, 1): "fixed", (1, 0): "broken", (0, 0): "still wrong", (1, 1): "still right"}[(was, right)]
        result[name].append((before[0] if before else None, after[0]))
    return result


def _mostly_right(rows: Sequence[Mapping]) -> bool:
    return sum(bool(row.get("correct")) for row in rows) * 2 >= len(rows)


def most_instructive(
    pairs: Sequence[tuple[Mapping | None, Mapping]], limit: int
) -> list[tuple[Mapping | None, Mapping]]:
    """Up to `limit` of these pairs: first those where an answer could be read, so that reasoning is compared and not
    format, and one of each kind in turn, so that a frequent kind does not fill the list.
    """
    by_kind: dict[Any, list] = {}
    for pair in sorted(pairs, key=lambda pair: sum(row is not None and row.get("parsed") is None for row in pair)):
        by_kind.setdefault(pair[1].get("kind"), []).append(pair)
    turns = [pair for turn in range(limit) for of_kind in by_kind.values() for pair in of_kind[turn : turn + 1]]
    return turns[:limit]


def changed_minds(run_dir: str | os.PathLike, limit: int = 3) -> Page:
    """What training fixed, what it broke and what is still wrong: the answers before and after, side by side.

    Args:
        run_dir: a run directory with `predictions.jsonl`.
        limit: problems shown of each sort.
    """
    run = RunDirectory(run_dir)
    changes = sort_changes(run.iter_jsonl(run.predictions_path))
    total = sum(len(pairs) for pairs in changes.values())
    if not total:
        return Page(_note("This run has not been evaluated yet."))
    draw, delimiters = macro("pair"), delimiters_of_run(run.path)
    counts = ", ".join(f"{len(pairs)} {name}" for name, pairs in changes.items())
    parts = [_note(f"Of {total} problems: {counts}.")]
    for name, title in CHANGES.items():
        shown = most_instructive(changes[name], limit)
        of = f" ({len(shown)} of {len(changes[name])})" if shown else ": none"
        parts.append(f"<h3>{title}{of}</h3>")
        parts += [
            draw(before, after, _picture(str(run.path), after.get("image")), delimiters) for before, after in shown
        ]
    return Page("".join(parts))


# ---------------------------------------------------------------- the viewer


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
            self._status.value, self._page.value = "", _in_notebook(_note(sampled))
            return
        self._current = self._by_step[self._step.value][self._problem.value - 1]
        rows = self.store.completions(self._current)
        picture = _picture(str(self.store.folder), rows[0].get("image"))
        place = self._found.index(self._current) + 1
        through = "visit" if self._through.value else "group"
        self._status.value = _in_notebook(
            _note(f"{through} {place:,} of {len(self._found):,} \u00b7 {len(self.store):,} completions in this run")
        )
        self._page.value = _in_notebook(macro("group")(rows, picture, delimiters_of_run(self.store.folder)))


# ---------------------------------------------------------------- training, live


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

            self._handle = display(HTML(_in_notebook(_note("Waiting for the first step \u2026"))), display_id=True)
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
        self._handle.update(HTML(_in_notebook(self._page(done))))
        self._drawn_at = time.monotonic()
        self._cost = self._drawn_at - begun

    def _page(self, done: bool) -> str:
        if not self.rows:
            return _note("No step was logged.")
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
        picture = _picture(str(self._store.folder), rows[0].get("image"))
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
