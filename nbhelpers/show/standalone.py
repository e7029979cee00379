"""What the pages that are read without a kernel share: one file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from nbhelpers import __version__
from nbhelpers.params import PlainError, repository_root
from nbhelpers.runs import RunDirectory
from nbhelpers.show.pages import TEMPLATES, template
from nbhelpers.show.pictures import data_uri


class ReportError(PlainError, ValueError):
    """A report or a comparison cannot be made; the message says what is missing or differs."""


def render(name: str, styles: Sequence[str], scripts: Sequence[str] = (), **values: Any) -> str:
    """The page, whose policy (Content-Security-Policy) lets it use this style and this script and nothing else."""
    from markupsafe import Markup

    style = "".join((TEMPLATES / file).read_text(encoding="utf-8") for file in styles)
    text = "".join((TEMPLATES / file).read_text(encoding="utf-8") for file in (*scripts, "page.js"))
    values |= {"style": Markup(style), "style_hash": _hash(style), "script": Markup(text), "script_hash": _hash(text)}
    written = f"Written by nbhelpers {__version__} on {datetime.now():%Y-%m-%d %H:%M}."
    return template(name).render(footer=f"{written} This file loads nothing from elsewhere.", **values)


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def run_of(run_dir: str | Path) -> RunDirectory:
    run = RunDirectory(run_dir)
    if not run.path.is_dir():
        raise FileNotFoundError(f"there is no run directory {run.path}{_runs_near(run.path.parent)}")
    if not _is_run(run.path):
        raise ReportError(
            f"{run.path} is no run directory: it holds neither manifest.json nor metrics.jsonl nor predictions.jsonl"
            f"{_runs_near(run.path)}"
        )
    return run


def _is_run(folder: Path) -> bool:
    run = RunDirectory(folder)
    left = (run.manifest_path, run.metrics_path, run.samples_path, run.predictions_path, run.evaluation_path)
    executed = folder != repository_root() and any(run.notebooks_dir.glob("*.ipynb"))  # notebooks 01 and 02 alone
    return executed or any(path.is_file() for path in left)


def _runs_near(folder: Path) -> str:
    """The end of a sentence: the runs in this folder or in its `outputs/`, where there are some."""
    places = [*folder.glob("*/"), *folder.glob("outputs/*/")]
    runs = sorted(str(place) for place in places if _is_run(place))[:5]
    return f"; runs there are {', '.join(runs)}." if runs else "."


def figure_uri(figure: Any) -> str:
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(144)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # A third of the size of the full colours, and no difference to be seen in lines and text.
    drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(128, dither=0)
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG", optimize=True)
    return data_uri(buffer.getvalue(), "png")
