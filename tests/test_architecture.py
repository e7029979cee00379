"""The house: one-way imports, nothing heavy at the door."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import nbhelpers

ROOMS = [
    "params", "memory", "run_directory", "problems", "sources", "data", "quantities", "grading", "rewards",
    "embedded", "mends", "vision_cache", "sampling", "gemma_norm", "vllm_setup",
    "unsloth_backend", "hand_over", "generation", "policy", "samples",
    "training", "evaluation", "plots", "viewer", "reward_lesson", "report", "series", "doctor", "cli",
]  # fmt: skip
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "unsloth", "vllm", "bitsandbytes", "scipy"}
PACKAGE = Path(nbhelpers.__file__).parent
MODULES = sorted(path for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imported_rooms(tree: ast.AST) -> set[str]:
    rooms = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "nbhelpers":
            rooms |= {alias.name for alias in node.names if alias.name in ROOMS}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nbhelpers."):
            rooms.add(node.module.split(".")[1])
    return rooms


def test_every_module_has_its_place_in_the_house():
    assert {path.stem for path in MODULES} <= set(ROOMS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_imports_only_from_the_rooms_before_it(path):
    allowed = set(ROOMS[: ROOMS.index(path.stem)])
    assert imported_rooms(ast.parse(path.read_text())) - allowed - {path.stem} == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_nothing_heavy_is_imported_before_it_is_needed(path):
    """Unsloth has to come before transformers, trl and peft, so no module may bring them in at its top."""
    top = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name.split(".")[0] for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {(node.module or "").split(".")[0] for node in top if isinstance(node, ast.ImportFrom)}
    assert names & HEAVY == set()
