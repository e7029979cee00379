"""What was learnt: before and after on the same problems, with the statistics of it."""

from nbhelpers.evaluation.evaluating import evaluate, headline, power_sentence
from nbhelpers.evaluation.exporting import export_vlmevalkit
from nbhelpers.evaluation.gain import readings
from nbhelpers.evaluation.majority_at_k import sampling_table
from nbhelpers.evaluation.protocol import EvaluationError
from nbhelpers.evaluation.repeating import evaluate_model, evaluate_run
from nbhelpers.evaluation.statistics import (
    detectable_difference,
    difference_over_seeds,
    holm,
    paired_difference,
    picture_clusters,
    problem_accuracy,
)
from nbhelpers.evaluation.trial import try_model
from nbhelpers.evaluation.untaught import not_taught
