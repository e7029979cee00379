"""Units of measure: one key and one size for every name that a unit goes by.

>>> unit_key("square centimetres"), unit_key("cm^2"), unit_key("apples")
('cm^2', 'cm^2', None)
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache

from nbhelpers.grading.tables import TABLES

_NAMES: dict[str, str] = {}
_SIZES: dict[str, tuple[str, Decimal]] = {}
for _family in TABLES["units"]["families"]:
    for _entry in _family.split(" | "):
        _key, _size, *_others = _entry.split()
        _SIZES[_key] = (_family.split()[0], Decimal(_size))
        _NAMES.update(dict.fromkeys((_key, *_others), _key))

_UNIT = re.compile(
    r"\s*-?\s*[(\[{]?\s*(?:(?P<dimension>square|sq\.?|cubic)\s+)?(?P<name>per\s?cent|[%$€£¥¢°](?:\s?[CF]\b)?|[^\W\d_]+)"
    r"(?:\^?\{?(?P<power>[23])\}?(?!\d)|\s+(?P<word>squared|cubed))?"
    r"(?:\s*(?:/|per\b)\s*(?P<per>[^\W\d_]+)(?:\^?\{?(?P<per_power>[23])\}?(?!\d))?)?"
)
_POWERS = {"square": "2", "sq": "2", "sq.": "2", "cubic": "3", "squared": "2", "cubed": "3", "2": "2", "3": "3"}


def unit_name(name: str) -> str | None:
    """The key of one word: cm for `centimetres`, None for a word that is no known unit."""
    if name in _NAMES:
        return _NAMES[name]
    lower = name.lower().replace(" ", "")
    if lower in _NAMES and len(name) > 1:  # one letter means what its case says: M is not m
        return _NAMES[lower]
    return _NAMES.get(lower[:-1]) if lower.endswith("s") and len(lower) > 3 else None


@lru_cache(maxsize=4096)
def read_unit(phrase: str) -> tuple[str | None, int]:
    """The unit at the start of `phrase` (None for a word that is no known unit) and where it ends."""
    match = _UNIT.match(phrase)
    key = unit_name(match["name"]) if match else None
    if key is None or match["name"] == "in" and phrase[match.end() :].strip(" .)]}"):  # "12 in total"
        return None, 0
    if power := match["dimension"] or match["power"] or match["word"]:
        key += "^" + _POWERS[power]
    if match["per"]:
        key += "/" + (unit_name(match["per"]) or match["per"].lower()) + (match["per_power"] or "")
    return key, match.end()


def unit_key(phrase: str) -> str | None:
    """One spelling for a unit, None for no unit or a word that is no known one."""
    return read_unit(phrase)[0]


def units_agree(given: str, asked: str | None) -> bool:
    """Whether a stated unit can be the asked one: an absent or unknown word (`apples`) is no contradiction."""
    key = unit_key(asked or "")
    if not given or key is None or given == key:
        return True
    return "°" in (given, key) and given[0] == key[0] == "°"  # 30° for 30 °C


def in_measure(value: Decimal, unit: str) -> tuple[str, Decimal]:
    """A quantity in the measure of its family, so that 300 cm and 3 m can be seen to be one length."""
    name, _, power = unit.partition("^")
    family, size = _SIZES.get(name, (name, Decimal(1)))
    return f"{family}^{power}", value * size ** int(power or 1)
