"""Words on the ground of a number: the sign is the colour, the size the depth, and what a model wrote stays text."""

from __future__ import annotations

import re

import torch

from nbhelpers.policy import word_numbers
from nbhelpers.problems import conversation, make_problems
from nbhelpers.show.coloured import differences, words
from nbhelpers.show.learning_plots import ratio_figure


def grounds(page):
    return [(text, float(value), color) for value, color, text in re.findall(
        r'data-told="([+-][\d.]+)" style="background:rgba\(([\d,.]+)\)">([^<]*)<', str(page)
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


def test_several_measures_unfold_one_after_the_other():
    page = str(words([["a", "b"]], {"first, in nats": torch.ones(1, 2), "second": torch.zeros(1, 2)}))
    assert page.count("<details") == 2 and page.count("<details class='measure' open>") == 1
    assert page.index("first, in nats") < page.index("+1.000") < page.index("second") < page.index("+0.000")


def test_two_completions_are_one_text_with_what_differs_marked():
    page = str(differences("At a glance: <b>24", "Step by step: <b>24"))
    assert "<del>At a glance</del><ins>Step by step</ins><span>: &lt;b&gt;24</span>" in page


def test_the_numbers_of_words_are_those_of_the_policy(embedded_policy, tiny_params, tmp_path):
    """Against the log-probs that sampling reports no more: the policy's own, one completion at a time."""
    reward = tiny_params(tmp_path).reward
    problems = make_problems(2, seed=1)
    prompts = [conversation(problem, reward) for problem in problems]
    texts = ["<REASONING>At a glance: 6.</REASONING>", "<SOLUTION>6</SOLUTION>"]
    images = [problem["image"] for problem in problems]
    found = word_numbers(embedded_policy, prompts, images, texts)
    assert ["".join(row) for row in found.words] == texts
    alone = word_numbers(embedded_policy, prompts[1:], images[1:], texts[1:])
    count = len(alone.words[0])
    assert torch.allclose(found.log_probs[1, :count], alone.log_probs[0], atol=1e-3)
    assert found.log_probs.max() <= 0 <= found.entropy.min() and float(found.entropy.max()) > 0.01
    assert not found.log_probs[1, count:].any() and not found.change.any()  # no adapter: nothing was changed
    weighed = word_numbers(embedded_policy, prompts, images, texts, sampled=found.log_probs - 0.5)
    assert torch.allclose(weighed.weight[0], torch.full_like(weighed.weight[0], 0.5).exp(), atol=1e-3)
    assert "log of the importance weight" in weighed.measures() and len(found.measures()) == 3
