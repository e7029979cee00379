"""GRPO: the configuration from parameters, the trainer with its record, and the loop."""

from nbhelpers.training import by_hand
from nbhelpers.training.beside_trl import compare_with_trl
from nbhelpers.training.configuration import check, grpo_arguments
from nbhelpers.training.trainer import TrainingError, TrainingResult, train, train_if_missing
