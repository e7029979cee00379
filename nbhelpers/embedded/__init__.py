"""The embedded model: a real Gemma-3 with vision, small enough for a laptop's CPU, its two habits, and its recipe.

Its weights ship with the package. They were taught, by supervised learning on `nbhelpers.problems.drawn`, to see,
to work a problem out in steps, and to glance at it instead; mostly it glances. GRPO finds that working pays.
"""

from nbhelpers.embedded.habits import works_it_out
from nbhelpers.embedded.model import embedded_path, hub_name, write_checkpoint
