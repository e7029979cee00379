"""Words on the ground of a number: the sign is the colour, the size the depth, and what a model wrote stays text."""

from __future__ import annotations

import re

import torch

from nbhelpers.show.coloured import words
from nbhelpers.show.group_plots import ratio_figure


def grounds(page):
    return [(text, float(value), color) for value, color, text in re.findall(
        r'title="([+-][\d.]+)" style="background:rgba\(([\d,.]+)\)">([^<]*)<', str(page)
    )]  # fmt: skip


def test_the_sign_is_the_colour_and_the_size_the_depth():
    values = torch.tensor([[0.5, -0.5, -0.125, 0.0], [9.0, 9.0, 9.0, 9.0]])
    (_, _, up), (_, _, down), (_, _, slight), (_, _, none) = grounds(words([["a", "b", "c", "d"]], values[:1], "nats"))
    assert up.startswith("0,114,178") and down.startswith("213,94,0") and slight.startswith("213,94,0")
    depths = [float(color.split(",")[3]) for color in (up, down, slight, none)]
    assert depths[0] == depths[1] > depths[2] > depths[3] == 0


def test_padding_has_no_word_and_a_line_break_is_shown():
    page = words([["one", "\n"]], torch.tensor([[1.0, 0.5, 7.0]]), "nats", ["reward 4"])
    assert (
        [text for text, *_ in grounds(page)] == ["one", "\u23ce\n"]
        and "reward 4" in str(page)
        and "7.0" not in str(page)
    )


def test_hostile_words_stay_text():
    page = str(
        words([["<script>alert(1)</script>", '" onfocus="alert(1)']], torch.ones(1, 2), "<b>nats</b>", ["<i>x</i>"])
    )
    assert "<script>" not in page and "<b>nats" not in page and "<i>x" not in page and 'onfocus="' not in page


def test_a_clipped_token_is_hollow_in_the_direction_of_its_advantage_alone():
    ratio = torch.tensor([[1.5, 0.5, 1.0], [1.5, 0.5, 1.0]])
    figure = ratio_figure(ratio, torch.ones(2, 3), torch.tensor([1.0, -1.0]))
    first, second = figure.axes[0].collections[-2:]
    hollow = [[face[3] == 0 for face in dots.get_facecolors()] for dots in (first, second)]
    assert hollow == [[True, False, False], [False, True, False]]
