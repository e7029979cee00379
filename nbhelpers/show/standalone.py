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
from nbhelpers.params import PlainError
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
        raise FileNotFoundError(f"there is no run directory {run.path}")
    return run


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
