"""What a parameter file may not do: bring code of its own, publish, or reach beyond this machine.

A parameter file is data. Code (`module:function` in `reward.functions`) and what talks to other machines (loggers, a
vLLM server) is taken

* from the command line (`--set`, `--report-to`) and from a notebook's parameters cell as a person edited it;
* from a file, or from what papermill injected (`-f`, `-p` and `-y` look the same in a notebook), only where the person
  says so: `--trust-code`, or `NBHELPERS_TRUST_CODE=1` for papermill.

papermill itself makes a cell of a file before anything of ours runs. A key at the file's top and some of YAML's types
are code in it (2.7.0; `tests/faults/test_only_data.py` shows which): a stranger's file is for `nbhelpers run` alone.

`RunParams.load` is the one gate: whoever holds a `RunParams` may run what it names. Sections that a command reads from
another file (a sweep) go there as a `Layer` of data. Whoever starts kernels or processes does it inside
`trusting(params.needs_trust)`, as they cannot tell what they are handed from a stranger's file. Nothing publishes to a
hub, and no remote code is ever run, whoever asks.
"""

from __future__ import annotations

import ast
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from nbhelpers.params.sentences import ParamsError

TRUST = "NBHELPERS_TRUST_CODE"
# Fields of GRPOConfig that connect to other machines (TRL 1.14.2).
_OUTWARD = ("report_to",)
_HARMLESS = (None, "none", [], ["none"], "auto")


class Layer(NamedTuple):
    """Sections from one place: its name for messages, the sections, and whether they were only data."""

    source: str
    sections: dict[str, Any]
    is_data: bool


def given_layers(source: str, sections: dict[str, Any]) -> list[Layer]:
    """What was handed to `RunParams.load`, with the sections that papermill injected as a layer of data."""
    injected = injected_names()
    data = {name: value for name, value in sections.items() if name in injected}
    own = {name: value for name, value in sections.items() if name not in injected}
    return [Layer(source, own, False)] + ([Layer(source, data, True)] if data else [])


def injected_names() -> set[str]:
    """The names that a cell of papermill's has set in this kernel; it begins that cell with "# Parameters"."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    cells = shell.history_manager.input_hist_raw if shell is not None else []
    names: set[str] = set()
    for cell in cells:
        if cell.lstrip().startswith("# Parameters\n"):
            names |= {
                node.id
                for node in ast.walk(ast.parse(cell))
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            }
    return names


def refuse_code_from_data(layers: Sequence[Layer], trust_code: bool = False) -> None:
    """Stop where a layer of data has the last word on code or on a connection, and the person does not trust it.

    Raises:
        ParamsError: says which file names what, and how to allow it.
    """
    if trust_code or os.environ.get(TRUST) == "1":
        return
    for key, what, source in not_only_data(layers):
        raise ParamsError(
            f"{source}: {key} names {what}, and a parameter file is data that may come from anybody. If you know what "
            f"it does, give it on the command line (--set {key}=..., --report-to for a logger), write it into a "
            f"notebook's parameters cell, or allow the file with --trust-code ({TRUST}=1 for papermill)"
        )


def not_only_data(layers: Sequence[Layer]) -> Iterator[tuple[str, str, str]]:
    """(key, what it names, source) of each value that is more than data and that a layer of data has decided."""
    decided: dict[str, tuple[Any, Layer]] = {}
    for layer in layers:
        reward, training = layer.sections.get("reward") or {}, layer.sections.get("training") or {}
        if "functions" in reward:
            decided["reward.functions"] = reward["functions"], layer
        if "vllm_server" in (model := layer.sections.get("model") or {}):
            decided["model.vllm_server"] = model["vllm_server"], layer
        grpo = training.get("grpo")
        for key in _OUTWARD if isinstance(grpo, dict) else ():
            if key in grpo:
                decided[f"training.grpo.{key}"] = grpo[key], layer
    for key, (value, layer) in decided.items():
        if not layer.is_data:
            continue
        if key == "reward.functions":
            own = [name for name in value if isinstance(name, str) and ":" in name] if isinstance(value, list) else []
            if own:
                yield key, f"{', '.join(own)}, which is code", layer.source
        elif value not in _HARMLESS:
            yield key, f"{value}, which connects this run to something else", layer.source


def publishes(key: str) -> bool:
    """Whether a field of GRPOConfig sends results to a hub (TRL 1.14.2: its own, a Space of trackio's)."""
    return key.startswith(("hub_", "push_to_hub", "trackio_")) or key.endswith("_hub_repo")


@contextlib.contextmanager
def trusting(trusted: bool = True) -> Iterator[None]:
    """Inside, processes and kernels that are started take code from files too: what `RunParams.load` let through here
    reaches them as papermill's parameters, which they could not tell from a stranger's file.
    """
    before = os.environ.get(TRUST)
    if trusted:
        os.environ[TRUST] = "1"
    try:
        yield
    finally:
        if trusted:
            os.environ.pop(TRUST)
            if before is not None:
                os.environ[TRUST] = before
