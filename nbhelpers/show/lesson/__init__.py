"""The material of notebook 02: rollouts, spellings and hacks with what they are paid, and the figures beside them."""

from nbhelpers.show.lesson.figures import (
    grader_rates,
    group_figure,
    preview_figure,
    shaping_figure,
    signal_figure,
    weights_figure,
)
from nbhelpers.show.lesson.material import HACKS, ROLLOUTS, SPELLINGS
from nbhelpers.show.lesson.tables import (
    hack_gallery,
    judge_spellings,
    pay,
    policy_table,
    preview_table,
    recipes,
    reward_playground,
    show_preview,
)
