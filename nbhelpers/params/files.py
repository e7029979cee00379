"""From what a person wrote to layers of sections: parameter files, what they build on, and `--set` overrides."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from nbhelpers.params.places import available_presets, places_of, presets_folder, repository_root, resolve_path
from nbhelpers.params.sections import SECTIONS
from nbhelpers.params.sentences import ParamsError, as_given, did_you_mean, one_line, owners
from nbhelpers.params.trust import Layer

_TOP_LEVEL = ("preset", "output_dir", *SECTIONS)
_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # a NUL, half a character: no file can have either in its name
LARGEST = 256 * 1024  # bytes; full.yaml, which holds every key, has 5,000


def parse_overrides(settings: list[str]) -> dict[str, dict[str, Any]]:
    """`["training.max_steps=5", "training.grpo.beta=0.04"]` as sections for `RunParams.load`; values are YAML."""
    sections: dict[str, dict[str, Any]] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = path.strip().split(".")
        if not equals or len(keys) < 2 or not all(keys):
            raise ParamsError(f"--set {setting}: expected section.key=value, such as training.max_steps=5.")
        if keys[0] not in SECTIONS:
            known = ", ".join(SECTIONS)
            hint = did_you_mean(keys[0], SECTIONS)
            raise ParamsError(f"--set {setting}: {keys[0]!r} is not a section ({known}){hint}")
        if not text.strip():
            raise ParamsError(f"--set {setting}: no value given; write null for none, '' for an empty text.")
        try:
            value = yaml.load(text, Loader=_PlainLoader)
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # a number of 5,000 digits is a ValueError
            raise ParamsError(
                f"--set {setting}: the value cannot be read as YAML ({one_line(error)}); put text with "
                "special characters between quotes, as in 'key=\"...\"'."
            ) from None
        place = sections.setdefault(keys[0], {})
        for key in keys[1:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ParamsError(f"--set {setting}: {key!r} was set to a value before and cannot hold {keys[-1]!r}.")
        place[keys[-1]] = value
    return sections


_TAG = "tag:yaml.org,2002:"
_PLAIN = {f"{_TAG}{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")}


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader of what JSON has as well. It refuses a key written twice, of which YAML would silently keep the last;
    aliases, of which ten lines can stand for a billion values; what YAML marks as another type (`!!binary`, `!!pairs`,
    ...); numbers that are not what they look like (12:30 is 750, 010 is 8); and a text with a NUL or half a character.
    A date is text, as it is to papermill.
    """

    yaml_constructors = {tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag in {None, *_PLAIN}}
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag in _PLAIN]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            line = event.start_mark.line + 1
            raise yaml.YAMLError(f"line {line}: *{event.anchor} is an alias; write the value out in its place")
        return super().compose_node(parent, index)

    def construct_scalar(self, node: yaml.ScalarNode) -> str:
        text, line = super().construct_scalar(node), node.start_mark.line + 1
        if node.tag == f"{_TAG}int" and (":" in text or re.match(r"[+-]?0\d", text)):
            raise yaml.YAMLError(f"line {line}: {text} is a number to the base {60 if ':' in text else 8} in YAML")
        if _NO_TEXT.search(text):
            raise yaml.YAMLError(f"line {line}: a NUL or half a character in {text[:40]!r}")
        return text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: the key {key!r} is written twice")
            seen.add(key if isinstance(key, str) else None)
        return super().construct_mapping(node, deep)


def _preset_file(preset: Any, asked_by: str, beside: Path | None) -> Path:
    """The file of a preset; a path is looked for beside the file that names it, then by `resolve_path`."""
    names = available_presets()
    if not isinstance(preset, str) or not preset:
        raise ParamsError(
            f"{asked_by}: preset was given {preset!r}; expected the name of a preset ({', '.join(names)}) or the path "
            "of a parameter file."
        )
    if preset.endswith((".yaml", ".yml")) or "/" in preset or os.sep in preset:
        found = beside / preset if beside and (beside / preset).is_file() else resolve_path(preset)
        if found is None or not found.is_file():
            raise ParamsError(f"{asked_by}: there is no parameter file {preset!r}; {places_of(preset)}")
        return Path(os.path.abspath(found))
    if preset not in names:
        known = f"{', '.join(names)} (a file of your own is given by its path, ending in .yaml)"
        raise ParamsError(f"{asked_by}: there is no preset {preset!r} among {known}{did_you_mean(preset, names)}")
    return presets_folder() / f"{preset}.yaml"


def preset_layers(preset: str) -> tuple[list[Layer], list[Path]]:
    """The chain of parameter files, the most general first, and their paths.

    The first path is that of a shipped preset, the last that of `preset` itself.
    """
    layers: list[Layer] = []
    chain: list[Path] = []
    asked_by, beside, wanted = "parameters", None, preset
    while True:
        file = _preset_file(wanted, asked_by, beside)
        if file in chain:
            names = " → ".join(_short(link) for link in [*reversed(chain), file])
            raise ParamsError(f"{asked_by}: the presets build on each other in a circle ({names}).")
        label = _short(file)
        chain.insert(0, file)
        layers.insert(0, Layer(label, checked_layer(label, read_yaml(file, label)), is_data=True))
        base = layers[0].sections.get("preset")
        if file.parent == presets_folder() and base in (None, file.stem):
            return layers, chain
        if base is None:
            begin = f"begin it with a line such as `preset: full` ({', '.join(available_presets())})"
            raise ParamsError(f"{label} does not say what it builds on: {begin}")
        asked_by, beside, wanted = label, file.parent, base


def read_yaml(file: Path, label: str) -> Any:
    """What a YAML file holds; `label` is what an error calls it. A key that is written twice is refused."""
    try:
        size = file.stat().st_size
        text = file.read_text(encoding="utf-8") if size <= LARGEST else None
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{label} cannot be read: {one_line(error)}.") from None
    if text is None:
        raise ParamsError(f"{label} has {size:,} bytes, and a parameter file at most {LARGEST:,}")
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except RecursionError:
        raise ParamsError(f"{label} is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ParamsError(f"{label} is not valid YAML: {one_line(error)}.") from None


def _short(file: Path) -> str:
    """Relative to the current folder or the checkout where it lies inside, for messages."""
    for folder in (Path.cwd(), repository_root()):
        if folder and file.is_relative_to(folder):
            return str(file.relative_to(folder))
    return str(file)


def checked_layer(source: str, layer: Any) -> dict[str, Any]:
    """One file or the given sections: a mapping of known sections, each a mapping."""
    if layer is None:
        return {}
    if not isinstance(layer, dict):
        raise ParamsError(f"{source}: expected sections ({', '.join(SECTIONS)}), found {as_given(layer)}.")
    for name, value in layer.items():
        if name not in _TOP_LEVEL:
            hint = owners(name, SECTIONS) or did_you_mean(name, _TOP_LEVEL)
            raise ParamsError(f"{source}: {name!r} is not a section ({', '.join(_TOP_LEVEL)}){hint}")
        given = as_given(value)
        if name in SECTIONS and value is not None and not isinstance(value, dict):
            raise ParamsError(f"{source}: the section {name} holds its keys and values, but was given {given}")
        if (
            name == "output_dir"
            and value is not None
            and not (isinstance(value, str) and value and not _NO_TEXT.search(value))
        ):
            raise ParamsError(f"{source}: output_dir was given {given}; expected the path of a folder, or null")
    return layer
