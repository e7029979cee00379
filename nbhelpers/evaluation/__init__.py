"""What was learnt: before and after on the same problems, with the statistics of it."""

from nbhelpers.evaluation.evaluating import evaluate, headline, power_sentence, print_progress
from nbhelpers.evaluation.statistics import (
    detectable_difference,
    difference_over_seeds,
    holm,
    paired_difference,
    picture_clusters,
    problem_accuracy,
)
