"""What the strict protocol does where one could decide either way. A test runs every line; notebook 02 shows them."""

from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    """One decision with a solution that shows it: the gold answer, the problem's columns, whether it is credited."""

    case: str
    solution: str
    answer: str
    credited: bool
    columns: tuple[tuple[str, object], ...] = (("answer_type", "text"),)


_INT, _CM = (("answer_type", "integer"),), (("answer_type", "integer"), ("unit", "cm"))
_M, _ONE, _TWO = (("answer_type", "integer"), ("unit", "m")), (("precision", 1),), (("precision", 2),)
_FLOAT = (("answer_type", "float"),)
_CHOICES = (("choices", ("10 cm", "12 cm", "14 cm")),)

POLICY = (
    Rule("a box commits beside other numbers", r"We had 40 and 5, so \boxed{45}.", "45", True, _INT),
    Rule("a hedge that joins a box to another value", r"\boxed{45} or 46", "45", False, _INT),
    Rule("a denial elsewhere in the text", r"There are no small ones. \boxed{7}", "7", True, _INT),
    Rule("two different answers", "The answer is 45. The answer is 46.", "45", False, _INT),
    Rule("a letter with a value that is not its own", "(B) 90 cm", "12 cm", False, _CHOICES),
    Rule("a letter with another choice's value", "B = 14 cm", "12 cm", False, _CHOICES),
    Rule("the choices restated, then a letter", "(A) 10 cm (B) 12 cm (C) 14 cm\nAnswer: B", "12 cm", True, _CHOICES),
    Rule(
        "a letter where the choices are shuffled letters: the label", "A", "A", False, (("choices", ("C", "A", "B")),)
    ),
    Rule("an equal quantity, the asked unit beside it", "300 cm = 3 m", "3", True, _M),
    Rule("an equal quantity in another unit alone", "120 mm", "12", False, _CM),
    Rule("a fraction for a ratio", "5/12", "5:12", True),
    Rule("sums and products in another order", r"4\pi + 24", r"24+4\pi", True),
    Rule("an exactly equal decimal for an expression", "0.5", r"\frac{1}{2}", True),
    Rule("a rounded decimal for an expression", "3.46", r"2\sqrt{3}", False),
    Rule("a rounded decimal within a stated precision", "3.46", r"2\sqrt{3}", True, (("answer_type", "text"), *_TWO)),
    Rule("an expression where a decimal is asked", r"2\sqrt{3}", "3.46", False, (*_FLOAT, *_TWO)),
    Rule("a unit in the gold answer: a missing one", "12", "12 cm", True),
    Rule("a unit in the gold answer: another one", "12 m", "12 cm", False),
    Rule("work left undone", "90/2", "45", False, _INT),
    Rule("almost, 45K, 1990s", "almost 45", "45", False, _INT),
    Rule("a tie goes up", "2.45", "2.5", True, (*_FLOAT, *_ONE)),
    Rule("a tie does not go to the even neighbour", "2.45", "2.4", False, (*_FLOAT, *_ONE)),
    Rule("no precision: the decimals that the answer shows", "3.4", "3.0", False, _FLOAT),
    Rule("a percentage that the precision can hold is a share", "75%", "0.75", True, (*_FLOAT, *_TWO)),
    Rule("a percentage that it cannot hold is the number", "2.5%", "2.5", True, (*_FLOAT, *_ONE)),
    Rule("and then it is no share", "2.5%", "0.0", False, (*_FLOAT, *_ONE)),
)
