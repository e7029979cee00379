"""A completion's words, coloured by one number for each token; and two completions, word by word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nbhelpers.show.pages import Page, note
from nbhelpers.show.text import visible, word_diff

UP, DOWN = (0, 114, 178), (213, 94, 0)  # blue and vermilion, which colour-blind people tell apart


def words(words_GT: Sequence[Sequence[str]], values_GT: Any, meaning: str = "", labels: Sequence[str] = ()) -> Page:
    """Each token over a bar of its value: blue above 0, orange below, deeper the farther (by the root, so that small
    values show); the number shows on hover and focus.

    Args:
        words_GT: the tokens' texts, G lists of their own length.
        values_GT: numbers, (G, T); what is beyond a list's length is padding. Or several such by their meaning: the
            first stands open, the others unfold.
        meaning: what a value is, with its unit, for the legend.
        labels: a line above each completion.
    """
    if not isinstance(values_GT, Mapping):
        return Page(_coloured(words_GT, values_GT, meaning, labels))
    folds = [
        f"<details class='measure'{'' if place else ' open'}><summary>{visible(name)}</summary>"
        f"{_coloured(words_GT, values, name, labels)}</details>"
        for place, (name, values) in enumerate(values_GT.items())
    ]
    return Page("".join(folds))


def _coloured(words_GT: Sequence[Sequence[str]], values_GT: Any, meaning: str, labels: Sequence[str]) -> str:
    rows = [[float(value) for value in values[: len(words)]] for words, values in zip(words_GT, values_GT, strict=True)]
    reach = max((abs(value) for row in rows for value in row), default=0.0) or 1.0
    lowest, highest = min(map(min, rows)), max(map(max, rows))
    body = [_legend(meaning, lowest, highest, reach)]
    for place, (words, row) in enumerate(zip(words_GT, rows, strict=True)):
        label = f'<div class="label">{visible(labels[place])}</div>' if labels else ""
        spans = "".join(_word(text, value, reach) for text, value in zip(words, row, strict=True))
        body.append(f'<div class="words">{label}{spans}</div>')
    return "".join(body)


def _word(text: str, value: float, reach: float) -> str:
    shown = visible(text.replace("\n", "\u23ce\n"))  # a line break is a token too, and has its value
    look = f'data-told="{value:+.3f}" style="background:{_ground(value, reach)}"'
    return f'<span class="word" tabindex="0" {look}>{shown}</span>'


def _ground(value: float, reach: float) -> str:
    red, green, blue = UP if value > 0 else DOWN
    return f"rgba({red},{green},{blue},{0.55 * min(1.0, abs(value) / reach) ** 0.5:.2f})"


def _legend(meaning: str, lowest: float, highest: float, reach: float) -> str:
    stops = ", ".join(_ground(lowest + (highest - lowest) * part / 4, reach) for part in range(5))
    bar = f'<i style="background:linear-gradient(90deg, {stops})"></i>'
    return f'<div class="scale">{visible(meaning)}: {lowest:+.2f} {bar} {highest:+.2f}</div>'


def differences(before: str, after: str) -> Page:
    """Two completions in one text: struck what only the first has, underlined what only the second has."""
    tags = {"=": "span", "-": "del", "+": "ins"}
    parts = [f"<{tags[sign]}>{visible(text)}</{tags[sign]}>" for sign, text in word_diff(before, after)]
    legend = note("Struck: only in the first. Underlined: only in the second.")
    return Page(f'{legend}<div class="text diff" dir="auto">{"".join(parts)}</div>')
