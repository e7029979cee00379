"""What was learnt: before and after on the same problems, with the statistics of it."""

from nbhelpers.evaluation.evaluating import evaluate, headline, print_progress
from nbhelpers.evaluation.statistics import paired_difference, problem_accuracy
