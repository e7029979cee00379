"""Reward functions, what a group makes of them, and a look at both before training."""

from nbhelpers.grading import GRADING_COLUMNS
from nbhelpers.rewards.functions import (
    RECIPES,
    closeness_reward_func,
    correctness_reward_func,
    formatting_reward_func,
    naive_correctness_reward_func,
    naive_formatting_reward_func,
    overlong_reward_func,
    repetition_reward_func,
)
from nbhelpers.rewards.groups import group_statistics, signal_chance
from nbhelpers.rewards.guarding import RewardError
from nbhelpers.rewards.making import make_reward_funcs, own_code
from nbhelpers.rewards.previewing import Preview, preview
