"""What the pages that are read without a kernel share: one file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from nbhelpers import __version__
from nbhelpers.runs import RunDirectory
from nbhelpers.show.pages import TEMPLATES, environment
from nbhelpers.show.pictures import data_uri, encode_image, load_image


class ReportError(ValueError):
    """A report or a comparison cannot be made; the message says what is missing or differs."""


def render(template: str, styles: Sequence[str], script: str | None = None, **values: Any) -> str:
    from markupsafe import Markup

    style = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in styles)
    text = (TEMPLATES / script).read_text(encoding="utf-8") if script else ""
    return (
        environment()
        .get_template(template)
        .render(
            style=Markup(style),
            style_hash=_hash(style),
            script=Markup(text),
            script_hash=_hash(text),
            footer=_footer(),
            **values,
        )
    )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _footer() -> str:
    return f"Written by nbhelpers {__version__} on {datetime.now():%Y-%m-%d %H:%M}. This file loads nothing from elsewhere."


def run_of(run_dir: str | Path | RunDirectory) -> RunDirectory:
    run = run_dir if isinstance(run_dir, RunDirectory) else RunDirectory(run_dir)
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
    buffer = io.BytesIO()
    # A third of the size of the full colours, and no difference to be seen in lines and text.
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(128, dither=0).save(
        buffer, "PNG", optimize=True
    )
    return data_uri(buffer.getvalue(), "png")


def image_uri(run: RunDirectory, row: Mapping, longest: int = 400) -> str | None:
    image = load_image(run.path, row.get("image"))
    return None if image is None else data_uri(encode_image(image, longest))
