"""The material of notebook 02: rollouts, spellings and hacks with what they are paid, and the figures beside them."""

from nbhelpers.show.lesson.figures import (
    group_figure,
    preview_figure,
    preview_table,
    shaping_figure,
    show_preview,
    signal_figure,
    weights_figure,
)
from nbhelpers.show.lesson.verdicts import (
    HACKS,
    ROLLOUTS,
    SPELLINGS,
    grader_rates,
    hack_gallery,
    judge_spellings,
    pay,
    reward_playground,
)
