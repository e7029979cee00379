"""Pictured mathematics problems drawn on the spot: the data set that needs no download.

A problem is a plain dictionary with MathVista's field names. Its picture follows from a *scene*, plain values, and the
scene alone decides which *part* of the data set the picture belongs to:

- ``"warmup"`` (half of all scenes): what the embedded model was taught with, see :mod:`nbhelpers.embedded`;
- ``"train"`` (a quarter): for training the policy;
- ``"evaluation"`` (a quarter): for measuring it.

So no two parts share a picture, whatever the seeds, and within one call no picture comes twice. Question texts do
repeat ("What time does the clock show?"): a split by question text cannot be made of this data, and is not needed.

>>> train = make_problems(1920, seed=0, part="train")
>>> evaluation = make_problems(512, seed=0, part="evaluation")
"""

from nbhelpers.problems.drawn.canvas import SIZE
from nbhelpers.problems.drawn.making import KINDS, PARTS, make_problems

__all__ = ["KINDS", "PARTS", "SIZE", "make_problems"]
