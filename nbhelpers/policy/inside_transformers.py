"""transformers' insides that are touched (tested: `runs/tested.json`).

* `get_image_features` is replaced by the vision cache, whose output only `Gemma3Model.forward` reads.
* `preprocess` of the image processor is overridden by the cache of pictures.
* `boi_token`, `full_image_sequence` of the processor: a prompt's tokens without looking at its picture.
* the setter of `add_bos_token` rebuilds the tokenizer's post-processor (`mends.keep_one_bos`).
* `AutoTokenizer.from_pretrained` hands vLLM a tokenizer that is there already.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


def override(thing: Any, **members: Any) -> None:
    """Give `thing` a class of the same name with other members.

    An attribute of the object itself would end up in the file that it is saved to.
    """
    kind = type(thing)
    thing.__class__ = type(kind.__name__, (kind,), {**members, "__module__": kind.__module__})


@contextlib.contextmanager
def loading_quietly() -> Iterator[None]:
    """Inside, transformers draws no bars: they stay behind in an executed notebook."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
