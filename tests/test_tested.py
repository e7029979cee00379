"""The guard of private names: what differs from the tested libraries is named before anything is loaded."""

from __future__ import annotations

import inspect
import json
import sys

import pytest

from nbhelpers.params.run_params import RunParams
from nbhelpers.policy import loading, unsloth
from nbhelpers.policy.policy import PolicyError
from nbhelpers.runs import tested
from nbhelpers.runs.tested import check_libraries, compare_library, fingerprints
from nbhelpers.training import configuration, inside_trl
from nbhelpers.training.configuration import TrainingError

SOURCE = '''
import os
if os.name:
    from json import dumps as written

class Loader:
    """Loads."""

    @property
    def place(self): return self._place

    @place.setter
    def place(self, value): self._place = value

    def load(self, name, *, quietly=False):
        """Say what."""
        return [name, quietly]  # as it was
'''
NAMES = ("inner.loader:Loader.load", "inner.loader:Loader.place", "inner.loader:written")


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A library `shelf-books`, found like an installed one: `shelf(source, version)` writes it."""

    def write(source, version="1.0"):
        inner = tmp_path / "shelf_books" / "inner"
        inner.mkdir(parents=True, exist_ok=True)
        (inner.parent / "__init__.py").write_text("raise RuntimeError('the guard must not import')")
        (inner / "loader.py").write_text(source)
        for old in tmp_path.glob("*.dist-info"):
            (old / "METADATA").unlink()
            old.rmdir()
        information = tmp_path / f"shelf_books-{version}.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: shelf-books\nVersion: {version}\n")
        return inner.parent

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("NBHELPERS_UNTESTED", raising=False)
    return write


@pytest.fixture
def as_tested(shelf, tmp_path, monkeypatch):
    """Write the library as it was tested."""
    names = fingerprints(shelf(SOURCE), NAMES)
    entry = {"version": "1.0", "instead": "model.shelf=false", "names": names}
    (tmp_path / "tested.json").write_text(json.dumps({"shelf-books": entry, "shelf-without-books": entry}))
    monkeypatch.setattr(tested, "TABLE", tmp_path / "tested.json")
    compare_library.cache_clear()
    yield
    compare_library.cache_clear()


def test_what_was_tested_passes_without_a_word(as_tested):
    assert check_libraries("shelf-books") == []


@pytest.mark.parametrize(
    ("old", "new"),
    [("Say what.", "Say which."), ("  # as it was", ""), ("[name, quietly]", "[\n            name,\n quietly]")],
)
def test_docstrings_comments_and_layout_do_not_count(shelf, as_tested, old, new):
    shelf(SOURCE.replace(old, new))
    assert check_libraries("shelf-books") == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[name, quietly]", "[quietly, name]", "Loader.load has changed"),
        ("quietly=False", "quietly=True", "Loader.load has changed"),
        ("def load(", "def fetch(", "Loader.load is missing"),
        ("self._place = value", "self._place = str(value)", "Loader.place has changed"),
        ("from json", "from ujson", "loader:written has changed"),
    ],
)
def test_a_changed_or_missing_name_stops_with_what_to_do(shelf, as_tested, old, new, said):
    shelf(SOURCE.replace(old, new), version="1.1")
    with pytest.raises(PolicyError) as raised:
        check_libraries("shelf-books", error=PolicyError)
    sentence = str(raised.value)
    assert said in sentence and "1.1 is installed and 1.0 was tested" in sentence
    assert "pip install 'shelf-books==1.0', or --set model.shelf=false" in sentence


def test_a_difference_is_a_warning_where_the_user_says_so(shelf, as_tested, monkeypatch):
    shelf(SOURCE.replace("def load(", "def fetch("))
    monkeypatch.setenv("NBHELPERS_UNTESTED", "1")
    (sentence,) = check_libraries("shelf-books")
    assert "Loader.load is missing" in sentence


def test_another_version_with_the_same_names_is_a_warning(shelf, as_tested):
    shelf(SOURCE, version="1.1")
    (sentence,) = check_libraries("shelf-books")
    assert "1.1 is installed and 1.0 was tested: the touched names have not changed" in sentence


def test_a_library_that_is_not_there_is_left_to_whoever_needs_it(as_tested):
    assert compare_library("shelf-without-books").installed is None
    assert check_libraries("shelf-without-books") == []


@pytest.mark.parametrize("library", json.loads(tested.TABLE.read_text()))
def test_what_is_installed_is_what_was_tested(library):
    finding = compare_library(library)
    if finding.installed is None:
        pytest.skip(f"{library} is not installed")
    assert finding.installed == finding.tested and not finding.differing, str(finding)


def overrides(child, parent):
    """The methods of `parent` that `child` has anew, with the names and kinds of both's parameters."""
    for name in set(vars(child)) & set(dir(parent)) - set(dir(object)):
        if inspect.isfunction(vars(child)[name]):
            parameters = [inspect.signature(getattr(owner, name)).parameters for owner in (child, parent)]
            yield name, *([(p.name, p.kind) for p in one.values()] for one in parameters)


def test_each_override_takes_what_the_parent_takes():
    from trl import GRPOTrainer
    from trl.generation.vllm_generation import VLLMGeneration

    rollout = inside_trl.rollout_trainer_class()
    scoring, generation = inside_trl.scoring_in_groups(rollout), inside_trl.generation_class(None)
    found = {}
    for child, parent in (
        (rollout, GRPOTrainer), (scoring, GRPOTrainer), (generation, VLLMGeneration),
    ):  # fmt: skip
        for name, ours, theirs in overrides(child, parent):
            found.setdefault(child, set()).add(name)
            if ("args", inspect.Parameter.VAR_POSITIONAL) not in ours:
                assert ours == theirs, name
    assert found[rollout] == set(unsloth.OVERRIDDEN)
    assert found[scoring] == {
        "_prepare_inputs", "_generate_and_score_completions", "_compute_loss", "_get_per_token_logps_and_entropies",
    }  # fmt: skip
    assert found[generation] == {"_init_vllm", "sync_weights", "generate"}
    assert all(name in tested.TABLE.read_text() for names in found.values() for name in names)


@pytest.fixture
def differing(tmp_path, monkeypatch):
    """Make one fingerprint of a library one that cannot be right."""

    def change(library):
        table = json.loads(tested.TABLE.read_text())
        table[library]["names"][next(iter(table[library]["names"]))] = "0"
        (tmp_path / "tested.json").write_text(json.dumps(table))
        monkeypatch.setattr(tested, "TABLE", tmp_path / "tested.json")
        compare_library.cache_clear()

    yield change
    compare_library.cache_clear()


def test_training_stops_before_a_model_is_loaded(differing, tmp_path):
    differing("trl")
    with pytest.raises(TrainingError, match="GRPOTrainer.__init__ has changed.*pip install 'trl==1.14.2'"):
        configuration.check(RunParams.load("smoke", output_dir=tmp_path))


def test_loading_stops_before_the_weights(differing, monkeypatch):
    differing("transformers")
    monkeypatch.setattr(loading, "_load_transformers", lambda *_: pytest.fail("loaded"))
    with pytest.raises(PolicyError, match="get_image_features has changed"):
        loading.load_policy(RunParams.load("smoke").model)


def test_a_run_is_checked_for_the_libraries_that_it_uses():
    def names(backend, **model):
        return loading.libraries(RunParams.load("full", model=model).model, backend)

    assert names("transformers", fast_inference=False) == ["transformers"]
    assert names("transformers", fast_inference=True) == ["transformers", "vllm"]
    assert names("unsloth", fast_inference=False) == ["transformers", "unsloth", "unsloth-zoo"]


def test_the_trainer_that_unsloth_generates_is_looked_at(monkeypatch):
    import trl

    unsloth.check_generated()

    class Generated(trl.GRPOTrainer):
        def _calculate_rewards(self, inputs, completions):
            raise NotImplementedError

    monkeypatch.setattr(trl, "GRPOTrainer", Generated)
    with pytest.raises(PolicyError, match="no _calculate_rewards.*unsloth==2026.10.7.*model.backend=transformers"):
        unsloth.check_generated()


def test_the_guard_imports_nothing():
    import subprocess

    code = "import sys; from nbhelpers import doctor; from nbhelpers.params import RunParams; " \
           "doctor.diagnose(RunParams.load('smoke'), gpus=[]); print(*sys.modules)"  # fmt: skip
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "trl", "transformers"} & set(loaded) == set()
