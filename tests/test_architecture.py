"""The house: wings on floors, one-way imports through their faces, nothing heavy at the door."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nbhelpers

FLOORS = {
    "params": 0,
    "grading": 1, "runs": 1,
    "problems": 2, "rewards": 2,
    "policy": 3, "embedded": 3,
    "training": 4,
    "evaluation": 5,
    "show": 6,
    "series": 7, "sweep": 7, "repeating": 7, "doctor": 7, "cli": 7,
}  # fmt: skip
# Neighbours on one floor that may use each other: the policy's weights may lie in `embedded`; the command calls all.
NEIGHBOURS = {("policy", "embedded"), ("cli", "series"), ("cli", "sweep"), ("cli", "repeating"), ("cli", "doctor")}
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "unsloth", "vllm", "bitsandbytes", "scipy"}
HOUSE = Path(nbhelpers.__file__).parent
MODULES = sorted(path for path in HOUSE.rglob("*.py") if path.parent != HOUSE or path.stem != "__init__")
FACES = sorted(path for path in HOUSE.glob("*/__init__.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {path: ast.parse(path.read_text()) for path in MODULES}
NAMES = {name_of(module) for module in MODULES}


def imports_of(path: Path) -> set[str]:
    """Modules of the package, such as `policy` or `policy.vllm.engine`, that a module imports anywhere in its text."""
    found = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nbhelpers":
            base = node.module.removeprefix("nbhelpers").removeprefix(".")
            inner = [f"{base}.{alias.name}".strip(".") for alias in node.names]
            found |= {name if name in NAMES else base for name in inner}
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            found |= {name.removeprefix("nbhelpers.") for name in names if name.startswith("nbhelpers.")}
    return found - {"", "__version__"}


def ids(path: Path) -> str:
    return name_of(path)


def test_every_module_stands_in_a_wing_of_the_plan():
    assert {name.split(".")[0] for name in NAMES} == set(FLOORS)


def test_imports_go_down_the_floors_and_through_the_faces():
    for path in MODULES:
        own = name_of(path).split(".")[0]
        for target in imports_of(path):
            wing, _, inner = target.partition(".")
            if wing != own:
                allowed = FLOORS[wing] < FLOORS[own] or (own, wing) in NEIGHBOURS
                assert allowed, f"{name_of(path)}: {own} may not use {wing}"
                assert not inner, f"{name_of(path)} reaches into {target}; its face is nbhelpers.{wing}"


@pytest.mark.parametrize("face", FACES, ids=ids)
def test_inside_a_wing_nothing_goes_round_in_a_circle(face):
    modules = {name_of(path): path for path in MODULES if path.is_relative_to(face.parent) and path.stem != "__init__"}
    uses = {name: imports_of(path) & modules.keys() for name, path in modules.items()}
    while free := [name for name, used in uses.items() if not used & uses.keys()]:
        for name in free:
            del uses[name]
    assert uses == {}, "these import each other"


@pytest.mark.parametrize("face", FACES, ids=ids)
def test_a_face_only_hands_on_names_and_is_short(face):
    tree = ast.parse(face.read_text())
    assert len(face.read_text().splitlines()) < 40
    assert not [node for node in tree.body if isinstance(node, ast.ClassDef)]


def test_nothing_heavy_is_imported_before_it_is_needed():
    """Unsloth has to come before transformers, trl and peft, so no module may bring them in at its top."""
    for path, tree in TREES.items():
        top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = {alias.name.split(".")[0] for node in top if isinstance(node, ast.Import) for alias in node.names}
        names |= {(node.module or "").split(".")[0] for node in top if isinstance(node, ast.ImportFrom)}
        assert names & HEAVY == set(), name_of(path)


def test_the_faces_together_load_neither_torch_nor_matplotlib():
    wings = [name_of(face) for face in FACES]
    code = f"import sys, {', '.join(f'nbhelpers.{wing}' for wing in wings)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "matplotlib", "transformers", "datasets"} & set(loaded) == set()


def test_no_function_is_longer_than_a_screen():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= 60, f"{name_of(path)}: {node.name} has {lines} lines"


def test_every_test_file_has_a_name_of_its_own():
    """Pytest imports test files by their bare names, so two of one name are not collected together."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
