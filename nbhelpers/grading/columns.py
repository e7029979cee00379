"""The columns of a problem, in the order in which samples and predictions are written."""

PROBLEM_COLUMNS = ("question", "choices", "unit", "precision", "answer", "question_type", "answer_type")
# What a grader takes beside completion and answer; a reward gets them as keyword lists.
GRADING_COLUMNS = tuple(column for column in PROBLEM_COLUMNS if column not in ("question", "answer"))
