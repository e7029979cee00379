"""Decides whether a completion answers its problem, and says why: commit, read, compare.

>>> grade("<REASONING>90 / 2</REASONING><SOLUTION>$45^\\circ$</SOLUTION>", "45", answer_type="integer")
Verdict(correct=True, parsed='45', reason='45 is the answer')
>>> grade("<REASONING>hm</REASONING><SOLUTION>45 or 46</SOLUTION>", "45", answer_type="integer").reason
'no single number: several numbers'
"""

from nbhelpers.grading.anywhere import grade_anywhere
from nbhelpers.grading.blocks import FormatVerdict, check_format, split_completion
from nbhelpers.grading.compare import MAX_SOLUTION, Verdict
from nbhelpers.grading.errors import ERRORS, count_errors, error_kind
from nbhelpers.grading.read import equation_holds
from nbhelpers.grading.tables import POLICY
from nbhelpers.grading.verdict import GRADING_COLUMNS, PROBLEM_COLUMNS, PROTOCOLS, can_grade, grade, same_answer
from nbhelpers.params import DEFAULT_DELIMITERS, Delimiters

# Raise it whenever a change of the wing changes a verdict; records and evaluations keep it.
GRADER_VERSION = "4"
