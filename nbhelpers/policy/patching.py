"""Changing a library's object for a while, or one object of it alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Inside, the own `name` of a module, a class or an object is `value`; what an object has from its class is back
    afterwards.
    """
    inherited = object()
    original = vars(owner).get(name, inherited)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if original is inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, original)


def override(thing: Any, **members: Any) -> None:
    """Give `thing` a class of the same name with other members.

    An attribute of the object itself would end up in the file that it is saved to.
    """
    kind = type(thing)
    thing.__class__ = type(kind.__name__, (kind,), {**members, "__module__": kind.__module__})
