"""GRPO: the configuration from parameters, the trainer with its record, and the loop."""

from nbhelpers.training import by_hand
from nbhelpers.training.alarm_rules import alarms
from nbhelpers.training.beside_trl import compare_with_trl
from nbhelpers.training.card import write_card
from nbhelpers.training.configuration import (
    TrainingError,
    is_first_process,
    launched,
    num_processes,
    place_among_processes,
)
from nbhelpers.training.first_look import first_answers, first_problems
from nbhelpers.training.launching import beside_processes, in_processes, launch, meeting, out_of_the_way
from nbhelpers.training.resuming import (
    check,
    check_trained,
    is_trained,
    refuse_another_base,
    refuse_other_problems,
    standing,
    what_is_kept,
)
from nbhelpers.training.scaling import expected_rate
from nbhelpers.training.stopping import TrainingStopped, disk_trouble, stops_go_to
from nbhelpers.training.trainer import load_and_train, train, train_if_missing
from nbhelpers.training.vision_cache import looking_once
