"""TODO."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from nbhelpers.params.places import available_presets, presets_folder, repository_root, resolve_path
from nbhelpers.params.sections import SECTIONS
from nbhelpers.params.sentences import ParamsError, as_given, did_you_mean, ended, one_line

_TOP_LEVEL = ("preset", "output_dir", *SECTIONS)


def parse_overrides(settings: list[str]) -> dict[str, dict[str, Any]]:
    """`["training.max_steps=5", "training.grpo.beta=0.04"]` as sections for `RunParams.load`; values are read
    as YAML.
    """
    sections: dict[str, dict[str, Any]] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = path.strip().split(".")
        if not equals or len(keys) < 2 or not all(keys):
            raise ParamsError(f"--set {setting}: expected section.key=value, such as training.max_steps=5.")
        if keys[0] not in SECTIONS:
            raise ParamsError(
                ended(
                    f"--set {setting}: {keys[0]!r} is not a section ({', '.join(SECTIONS)}){did_you_mean(keys[0], SECTIONS)}"
                )
            )
        if not text.strip():
            raise ParamsError(f"--set {setting}: no value given; write null for none, '' for an empty text.")
        try:
            value = yaml.load(text, Loader=_UniqueKeys)
        except (yaml.YAMLError, ParamsError) as error:
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


class _UniqueKeys(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise ParamsError(f"line {key_node.start_mark.line + 1}: the key {key!r} is written twice")
            seen.add(key if isinstance(key, str) else None)
        return super().construct_mapping(node, deep)


def is_path(preset: str) -> bool:
    return preset.endswith((".yaml", ".yml")) or "/" in preset or os.sep in preset


def preset_name(preset: str) -> str:
    return Path(preset).stem if is_path(preset) else preset


def preset_file(preset: Any, asked_by: str, beside: Path | None) -> Path:
    """The file of a preset; a path is looked for beside the file that names it, then by `resolve_path`."""
    if not isinstance(preset, str) or not preset:
        raise ParamsError(
            f"{asked_by}: preset was given {preset!r}; expected the name of a preset "
            f"({', '.join(available_presets())}) or the path of a parameter file."
        )
    if is_path(preset):
        found = beside / preset if beside and (beside / preset).is_file() else resolve_path(preset)
        if found is None or not found.is_file():
            raise ParamsError(f"{asked_by}: there is no parameter file {preset!r}{_looked_in()}.")
        return Path(os.path.abspath(found))
    file = presets_folder() / f"{preset}.yaml"
    if not file.is_file():
        names = available_presets()
        raise ParamsError(
            f"{asked_by}: there is no preset {preset!r} among {', '.join(names)} (a file of your own is "
            + ended(f"given by its path, ending in .yaml){did_you_mean(preset, names)}")
        )
    return file


def _looked_in() -> str:
    root = repository_root()
    both = f" or in {root}" if root and root != Path.cwd() else ""
    return f" in {Path.cwd()}{both}"


def preset_layers(preset: str) -> tuple[list[tuple[str, dict]], str]:
    """The chain of parameter files, the most general first, and the shipped preset at its root."""
    layers: list[tuple[str, dict]] = []
    chain: list[Path] = []
    asked_by, beside, wanted = "parameters", None, preset
    while True:
        file = preset_file(wanted, asked_by, beside)
        if file in chain:
            names = " -> ".join(str(_short(link)) for link in [*chain, file])
            raise ParamsError(f"{asked_by}: the presets build on each other in a circle ({names}).")
        chain.append(file)
        label = str(_short(file))
        layer = checked_layer(label, _read(file, label))
        layers.insert(0, (label, layer))
        shipped = file.parent == presets_folder()
        base = layer.get("preset")
        if shipped and base in (None, file.stem):
            return layers, file.stem
        if base is None:
            raise ParamsError(
                f"{label} does not say what it builds on: begin it with a line such as `preset: full` ({', '.join(available_presets())})."
            )
        asked_by, beside, wanted = label, file.parent, base


def _read(file: Path, label: str) -> Any:
    try:
        return yaml.load(file.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise ParamsError(f"{label} is not valid YAML: {one_line(error)}.") from None
    except ParamsError as error:
        raise ParamsError(f"{label}, {error}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{label} cannot be read: {one_line(error)}.") from None


def _short(file: Path) -> Path:
    """Relative to the current folder or the checkout where it lies inside, for messages."""
    for folder in (Path.cwd(), repository_root()):
        if folder and file.is_relative_to(folder):
            return file.relative_to(folder)
    return file


def checked_layer(source: str, layer: Any) -> dict[str, Any]:
    """One file or the given sections: a mapping of known sections, each a mapping."""
    if layer is None:
        return {}
    if not isinstance(layer, dict):
        raise ParamsError(f"{source}: expected sections ({', '.join(SECTIONS)}), found {as_given(layer)}.")
    for name, section in layer.items():
        if name not in _TOP_LEVEL:
            owners = [section for section, params in SECTIONS.items() if name in params.model_fields]
            hint = (
                f"; it is a key of {' and '.join(owners)}: write it there" if owners else did_you_mean(name, _TOP_LEVEL)
            )
            raise ParamsError(ended(f"{source}: {name!r} is not a section ({', '.join(_TOP_LEVEL)}){hint}"))
        if name in SECTIONS and section is not None and not isinstance(section, dict):
            raise ParamsError(
                f"{source}: the section {name} holds its keys and values, but was given {as_given(section)}."
            )
    return layer


def own_output_dir(source: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ParamsError(f"{source}: output_dir was given {as_given(value)}; expected the path of a folder, or null.")
    return value


def lay_over(values: dict, layer: dict, section: str, source: str, sources: dict[tuple[str, ...], str]) -> None:
    """Set the layer's keys in `values` and note where each came from."""
    if section == "training":
        for key, other in (("max_steps", "num_train_epochs"), ("num_train_epochs", "max_steps")):
            if layer.get(key) is not None and other not in layer:
                values[other] = None
    for key, value in layer.items():
        sources[section, str(key)] = source
        if section == "training" and key == "grpo" and isinstance(value, dict):
            base = values.get("grpo")
            value = {**base, **value} if isinstance(base, dict) else dict(value)
        values[key] = value
