"""One group of completions, drawn for the walk through GRPO in notebook 03."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nbhelpers.show.figures import BLUE, GREY, VERMILION, drawing

EPSILON = 0.2  # of the clip, TRL's default


def ratio_figure(ratio_GT: Any, mask_GT: Any, advantages_G: Any) -> Figure:
    """Each token's ratio of the policy now to the one that wrote it, and the band outside of which nothing is gained.

    Args:
        ratio_GT, mask_GT: (G, T); the mask is 1 where there is a token.
        advantages_G: (G,); a token is hollow where clipping has taken its gradient.
    """
    with drawing(2.9) as figure:
        axis = figure.subplots()
        axis.axhspan(1 - EPSILON, 1 + EPSILON, color=GREY, alpha=0.12, linewidth=0)
        axis.axhline(1, color=GREY, linewidth=0.8)
        start = 0
        for row, (mask, advantage) in enumerate(zip(mask_GT, advantages_G, strict=True)):
            values = np.asarray(ratio_GT[row][mask > 0], float)
            up = float(advantage) > 0
            held = values > 1 + EPSILON if up else (values < 1 - EPSILON) & (float(advantage) < 0)
            spots, color = start + np.arange(len(values)), BLUE if up else VERMILION if float(advantage) < 0 else GREY
            axis.scatter(spots, values, 14, edgecolors=color, facecolors=np.where(held, "none", color))
            above = {"transform": axis.get_xaxis_transform(), "va": "bottom"}
            axis.text(start, 1.0, f"{row + 1}", fontsize=8.5, color="#666666", **above)
            start += len(values) + 3
        axis.set_xlabel(
            "tokens of completions 1, 2, ... (blue: advantage above 0, orange: below; hollow: clipped, no gradient)"
        )
        axis.set_ylabel("ratio")
    return figure
