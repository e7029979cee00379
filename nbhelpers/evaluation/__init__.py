"""What was learnt: before and after on the same problems, with the statistics of it."""

from nbhelpers.evaluation.evaluating import evaluate
from nbhelpers.evaluation.exporting import export_vlmevalkit
from nbhelpers.evaluation.protocol import EvaluationError
from nbhelpers.evaluation.repeating import evaluate_model, evaluate_run
from nbhelpers.evaluation.statistics import (
    detectable_difference,
    difference_over_seeds,
    paired_difference,
    picture_clusters,
    problem_accuracy,
)
from nbhelpers.evaluation.telling import headline, not_taught, power_sentence, readings, sampling_table
from nbhelpers.evaluation.trial import try_model
