"""The guard of private names: what differs from the tested libraries is named before anything is loaded."""

from __future__ import annotations

import inspect
import sys

import pytest

from nbhelpers.params.run_params import RunParams
from nbhelpers.policy import loading, unsloth
from nbhelpers.policy.inside_transformers import TRANSFORMERS
from nbhelpers.policy.policy import PolicyError
from nbhelpers.policy.vllm.inside import VLLM
from nbhelpers.runs.tested import Library, check_libraries, compare_library, fingerprints
from nbhelpers.training import configuration, inside_trl
from nbhelpers.training.configuration import TrainingError
from nbhelpers.training.inside_trl import TRL

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


def as_tested(shelf, instead=""):
    folder = shelf(SOURCE)
    return Library("shelf-books", "1.0", fingerprints(folder, NAMES), instead)


def test_what_was_tested_passes_without_a_word(shelf):
    assert check_libraries(as_tested(shelf)) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [("Say what.", "Say which."), ("  # as it was", ""), ("[name, quietly]", "[\n            name,\n quietly]")],
)
def test_docstrings_comments_and_layout_do_not_count(shelf, old, new):
    library = as_tested(shelf)
    shelf(SOURCE.replace(old, new))
    assert check_libraries(library) == []


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
def test_a_changed_or_missing_name_stops_with_what_to_do(shelf, old, new, said):
    library = as_tested(shelf, instead="model.shelf=false")
    shelf(SOURCE.replace(old, new), version="1.1")
    with pytest.raises(PolicyError) as raised:
        check_libraries(library, error=PolicyError)
    sentence = str(raised.value)
    assert said in sentence and "1.1 is installed and 1.0 was tested" in sentence
    assert "pip install 'shelf-books==1.0', or --set model.shelf=false" in sentence


def test_a_difference_is_a_warning_where_the_user_says_so(shelf, monkeypatch):
    library = as_tested(shelf)
    shelf(SOURCE.replace("def load(", "def fetch("))
    monkeypatch.setenv("NBHELPERS_UNTESTED", "1")
    (sentence,) = check_libraries(library)
    assert "Loader.load is missing" in sentence


def test_another_version_with_the_same_names_is_a_warning(shelf):
    library = as_tested(shelf)
    shelf(SOURCE, version="1.1")
    (sentence,) = check_libraries(library)
    assert "1.1 is installed and 1.0 was tested; the 3 names that are touched are as tested" in sentence


def test_a_library_that_is_not_there_is_left_to_whoever_needs_it():
    library = Library("shelf-without-books", "1.0", dict.fromkeys(NAMES, "0"))
    assert compare_library(library).installed is None and check_libraries(library) == []


@pytest.mark.parametrize(
    "library", [TRL, TRANSFORMERS, VLLM, unsloth.UNSLOTH, unsloth.UNSLOTH_ZOO], ids=lambda it: it.name
)
def test_what_is_installed_is_what_was_tested(library):
    finding = compare_library(library)
    if finding.installed is None:
        pytest.skip(f"{library.name} is not installed")
    assert finding.installed == library.version and finding.fits, str(finding)


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
    weighing = inside_trl.weights_from_the_loss(rollout)
    generation = inside_trl._generation_class()
    found = {}
    for child, parent in ((rollout, GRPOTrainer), (weighing, GRPOTrainer), (generation, VLLMGeneration)):
        for name, ours, theirs in overrides(child, parent):
            found.setdefault(child, set()).add(name)
            if ("args", inspect.Parameter.VAR_POSITIONAL) not in ours:
                assert ours == theirs, name
    assert found[rollout] == set(unsloth.OVERRIDDEN)
    assert found[weighing] == {"_generate_and_score_completions", "_compute_loss", "_get_per_token_logps_and_entropies"}
    assert found[generation] == {"_init_vllm", "sync_weights", "generate"}
    assert all(name in str(TRL.names) for names in found.values() for name in names)


def other(library):
    """The library with one fingerprint that cannot be right."""
    name = next(iter(library.names))
    return Library(library.name, library.version, {**library.names, name: "0"})


def test_training_stops_before_a_model_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr(configuration, "TRL", other(TRL))
    with pytest.raises(TrainingError, match="GRPOTrainer.__init__ has changed.*pip install 'trl==1.14.2'"):
        configuration.check(RunParams.load("smoke", output_dir=tmp_path))


def test_loading_stops_before_the_weights(monkeypatch):
    monkeypatch.setattr(loading, "TRANSFORMERS", other(TRANSFORMERS))
    monkeypatch.setattr(loading, "_load_transformers", lambda *_: pytest.fail("loaded"))
    with pytest.raises(PolicyError, match="get_image_features has changed"):
        loading.load_policy(RunParams.load("smoke").model)


def test_a_run_is_checked_for_the_libraries_that_it_uses():
    def names(backend, **model):
        return [it.name for it in loading.libraries(RunParams.load("full", model=model).model, backend)]

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
