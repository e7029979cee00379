"""Units of measure: one key and one size for every name that a unit goes by.

>>> unit_key("square centimetres"), unit_key("cm²".replace("²", "^2"))
('cm^2', 'cm^2')
"""

# ruff: noqa: SIM905 - lists of words read better as text

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache

# Key, size within its family (the first unit of a line is the family's measure), names.
_TABLE = """
m 1 m meter metre 米|mm 1e-3 mm millimeter millimetre|cm 1e-2 cm centimeter centimetre 厘米|dm 1e-1 dm decimeter decimetre
|km 1e3 km kilometer kilometre 千米 公里|nm 1e-9 nm nanometer nanometre|μm 1e-6 μm um micrometer micrometre micron
|in 0.0254 in inch inches|ft 0.3048 ft foot feet|yd 0.9144 yd yard|mi 1609.344 mi mile|海里 1852 海里
g 1 g gram gramme 克|mg 1e-3 mg milligram|kg 1e3 kg kilogram kilo 千克|tonne 1e6 tonne|lb 453.59237 lb lbs pound|oz 28.349523125 oz ounce
s 1 s sec second 秒|ms 1e-3 ms millisecond|min 60 min mins minute 分钟|h 3600 h hr hrs hour 小时|day 86400 day 天|week 604800 wk week
month 1 mo month|year 12 yr yrs year 年 岁
l 1 l L liter litre|ml 1e-3 ml mL milliliter millilitre
° 1 ° deg degree 度|rad 57.29577951308232 rad radian
J 1 J joule|kJ 1e3 kJ kilojoule|cal 4.184 cal calorie
W 1 W watt|kW 1e3 kW kilowatt
A 1 A ampere amp|mA 1e-3 mA
Hz 1 Hz hertz|kHz 1e3 kHz|MHz 1e6 MHz|GHz 1e9 GHz
Pa 1 Pa pascal|kPa 1e3 kPa
$ 1 $ dollar usd buck|cent 1e-2 cent cents ¢
°C 1 °C celsius\n°F 1 °F fahrenheit\nK 1 K kelvin\nN 1 N newton\nV 1 V volt\nΩ 1 Ω ohm\nmol 1 mol mole\nT 1 T tesla\nC 1 C coulomb
% 1 % percent pct percentage 百分\n€ 1 € euro eur\n£ 1 £ gbp\n¥ 1 ¥ yen yuan rmb cny 元\nmph 1 mph
"""
_NAMES: dict[str, str] = {}
_SIZES: dict[str, tuple[str, Decimal]] = {}
for _line in _TABLE.replace("\n|", "|").strip().splitlines():
    for _entry in _line.split("|"):
        _key, _size, *_names = _entry.split()
        _SIZES[_key] = (_line.split()[0], Decimal(_size))
        _NAMES.update(dict.fromkeys(_names, _key))

_UNIT = re.compile(
    r"\s*-?\s*[(\[{]?\s*(?:(?P<dimension>square|sq\.?|cubic)\s+)?"
    r"(?P<name>per\s?cent|[%$€£¥¢°](?:\s?[CF]\b)?|[^\W\d_]+)"
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
    if match is None:
        return None, 0
    if match["name"] == "in" and phrase[match.end() :].strip(" .)]}"):
        return None, 0  # "12 in total"
    key = unit_name(match["name"])
    if key is None:
        return None, 0
    power = match["dimension"] or match["power"] or match["word"]
    if power:
        key += "^" + _POWERS[power]
    if match["per"]:
        key += "/" + (unit_name(match["per"]) or match["per"].lower()) + (match["per_power"] or "")
    return key, match.end()


def unit_key(phrase: str) -> str | None:
    """One spelling for a unit, None for no unit or a word that is no known one."""
    return read_unit(phrase)[0]


def units_agree(given: str, asked: str | None) -> bool:
    """Whether a stated unit can be the asked one: an absent or unknown word (`apples`) is no contradiction."""
    asked_key = unit_key(asked or "")
    if not given or asked_key is None or given == asked_key:
        return True
    return "°" in (given, asked_key) and given[0] == asked_key[0] == "°"  # 30° for 30 °C


def in_measure(value: Decimal, unit: str) -> tuple[str, Decimal]:
    """A quantity in the measure of its family, so that 300 cm and 3 m can be seen to be one length."""
    name, _, power = unit.partition("^")
    family, size = _SIZES.get(name, (name, Decimal(1)))
    return f"{family}^{power}", value * size ** int(power or 1)
