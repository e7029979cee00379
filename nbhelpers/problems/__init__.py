"""Problems: loading them from any source, cutting them into training and evaluation, and asking them."""

from nbhelpers.grading import PROBLEM_COLUMNS
from nbhelpers.problems.asking import conversation, decode_once, grpo_dataset, kind_of, prompt_text
from nbhelpers.problems.cutting import cut_from_training
from nbhelpers.problems.describing import guessing_rates, overlap, type_counts
from nbhelpers.problems.drawn import KINDS, make_problems
from nbhelpers.problems.loading import ProblemSets, load_problems
from nbhelpers.problems.sources import DataError, local_source
