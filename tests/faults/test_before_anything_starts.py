"""What cannot work is refused by name before anything is loaded, moved or overwritten."""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys

import nbformat
import pytest

from nbhelpers import cli, series
from nbhelpers.doctor import NotReadyError, refuse_what_cannot_run
from nbhelpers.params.run_params import RunParams
from nbhelpers.policy.loading import load_final_model, load_policy, load_processor
from nbhelpers.policy.policy import PolicyError
from nbhelpers.policy.saving import export_final_model
from nbhelpers.runs import machine
from nbhelpers.runs.directory import RunDirectory
from nbhelpers.runs.machine import Gpu

H200 = Gpu("NVIDIA H200", "580.159.04", 139.8, 139.0, (9, 0))


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    monkeypatch.setattr("nbhelpers.doctor.Path.exists", lambda path: path.name != "nvidiactl" and os.path.exists(path))


@pytest.fixture
def finished(tmp_path):
    """A run whose executed notebook must not be lost."""
    run = RunDirectory(tmp_path / "run")
    run.write_text(run.notebooks_dir / "01_dataset_exploration.ipynb", "{}")
    return run


def refused(capsys, *command) -> str:
    assert cli.main(list(command)) == 1
    said = capsys.readouterr().err
    assert said.startswith("nbhelpers: ") and said.count("\n") == 1 and "Traceback" not in said
    return said


REFUSED = {
    "no GPU": (["gemma3_smoke"], "GPU: nvidia-smi shows none, and model.fast_inference=true (vLLM)"),
    "no such file": (["smoke", "--set", "dataset.path=nowhere.jsonl"], "there is no file or folder 'nowhere.jsonl'"),
    "no such folder": (["smoke", "--set", "dataset.path=./no where"], "there is no file or folder './no where'"),
    "no such evaluation set": (["smoke", "--set", "dataset.eval_path=a.parquet"], "data: dataset.eval_path"),
    "a folder without data": (["smoke", "--set", "dataset.path=EMPTY"], "holds neither items.jsonl, nor parquet"),
    "a file that is no data": (["smoke", "--set", "dataset.path=FILE"], "is neither a folder nor a .parquet"),
    "a model's folder without a model": (["smoke", "--set", "model.name=EMPTY"], "holds no config.json"),
    "a model's folder that is not there": (["smoke", "--set", "model.name=/no/such"], "there is no folder '/no/such'"),
    "a misspelt model": (["smoke", "--set", "model.name=embeded"], "did you mean embedded?"),
    "a logger that is not installed": (["smoke", "--report-to", "swanlab"], "pip install swanlab, or leave out"),
    "a misspelt logger": (
        ["smoke", "--report-to", "wandbb"],
        "there is no logger 'wandbb'. transformers reports to wandb",
    ),
    "a reward without its module": (
        ["smoke", "--set", "reward.functions=['no_such:r']"],
        "the module of no_such:r is not",
    ),
    "a misspelt field of TRL's": (
        ["smoke", "--set", "training.grpo.betta=0.1"],
        "no field of TRL's GRPOConfig. Did you",
    ),
    "an output that is a file": (["smoke", "--output-dir", "FILE"], "FILE is a file"),
    "an output below a file": (["smoke", "--output-dir", "FILE/a/b"], "FILE is a file"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_run_that_cannot_work_is_refused_and_the_finished_one_stays(fault, capsys, no_gpu, finished, tmp_path):
    command, says = REFUSED[fault]
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("nothing")
    places = {word: str(tmp_path / word) for word in ("EMPTY", "FILE")}
    for word, place in places.items():
        command, says = [part.replace(word, place) for part in command], says.replace(word, place)
    output = [] if "--output-dir" in command else ["--output-dir", str(finished.path)]
    assert says in refused(capsys, "run", *command, *output)
    kept = [path for path in finished.path.rglob("*") if path.is_file()]
    assert kept == [finished.notebooks_dir / "01_dataset_exploration.ipynb"] and kept[0].read_text() == "{}"


def without_a_model(run):
    shutil.rmtree(run.final_model_dir)


def interrupted(run):
    run.append_jsonl(run.metrics_path, {"step": 9, "loss": 0.0})


def cut_adapter(run):
    path = run.final_model_dir / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


NOT_EVALUATED = {
    "never trained": (lambda run: (without_a_model(run), run.metrics_path.unlink()), {}, "has no trained adapter yet"),
    "interrupted": (without_a_model, {}, "Training in .* was interrupted after step 3. To go on: "),
    "an adapter of an earlier step": (interrupted, {}, "final_model is of step 3, but the run has come to step 9"),
    "a damaged adapter": (cut_adapter, {}, "adapter_model.safetensors has 1,000 bytes instead of"),
    "data that has gone": (lambda run: None, {"dataset": {"path": "gone.jsonl"}}, "no file or folder 'gone.jsonl'"),
    "no GPU": (lambda run: None, {"model": {"fast_inference": True}}, "GPU: nvidia-smi shows none"),
}


@pytest.mark.parametrize("fault", NOT_EVALUATED)
def test_a_run_that_cannot_be_evaluated_is_refused_before_a_model_is_loaded(
    fault, capsys, no_gpu, trained_run, tiny_params, tmp_path, monkeypatch
):
    spoil, sections, says = NOT_EVALUATED[fault]
    shutil.copytree(trained_run["run"].path, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint*"))
    run = RunDirectory(tmp_path / "run")
    spoil(run)
    run.write_text(run.params_path, tiny_params(run.path, **sections).to_yaml())
    monkeypatch.setattr("nbhelpers.evaluation.repeating.load_final_model", lambda *_: pytest.fail("loaded"))
    assert re.search(says, refused(capsys, "evaluate", str(run.path)))


MODELS = {
    "/no/such/folder": "there is no folder '/no/such/folder'; looked for /no/such/folder",
    "./no/such/folder": "there is no folder './no/such/folder'; looked for ",
    "gemma-3-4b-it": "a hub id such as unsloth/gemma-3-4b-it",
    "embeded": "did you mean embedded?",
    "~nobody/" + "x" * 300: "there is no folder '~nobody/xxx",
}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model[:20])
def test_a_model_that_is_not_there_is_refused_without_torch(model, tmp_path):
    code = (
        "import sys; from nbhelpers import cli; code = cli.main(sys.argv[1:])\n"
        "print(code, {'torch', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, "evaluate", "--model", model, "--output-dir", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "1 set()\n" and MODELS[model] in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


COMMANDS = {"run": ["gemma3_smoke", "--output-dir"], "evaluate": []}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_refusal_comes_in_two_seconds(tmp_path, name):
    """Of processor time: the time on the wall is the same on a machine with nothing else to do."""
    if name == "evaluate":
        run = RunDirectory(tmp_path / "run")
        run.write_text(run.params_path, RunParams.load("gemma3_smoke", output_dir=run.path).to_yaml())
    command = [sys.executable, "-m", "nbhelpers.cli", name, *COMMANDS[name], str(tmp_path / "run")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": ""})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if "GPU: nvidia-smi shows none" not in done.stderr:
        pytest.skip("this machine has a GPU")
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    assert done.returncode == 1 and (name == "evaluate" or not (tmp_path / "run").exists())


def test_no_room_on_the_disk_and_no_right_to_write_are_named(tmp_path, monkeypatch):
    params = RunParams.load("smoke", output_dir=tmp_path / "run")
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(NotReadyError, match="disk: 0 GiB free"):
        refuse_what_cannot_run(params, gpus=[])
    monkeypatch.undo()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(NotReadyError, match="output: nothing may be written in"):
        refuse_what_cannot_run(params, gpus=[])


def test_several_faults_are_named_at_once(tmp_path):
    params = RunParams.load("gemma3_smoke", output_dir=tmp_path, dataset={"path": "nowhere.jsonl"})
    with pytest.raises(NotReadyError, match=r"GPU: .* data: .*nowhere.jsonl"):
        refuse_what_cannot_run(params, gpus=[])


def test_what_can_run_is_let_through(tmp_path):
    refuse_what_cannot_run(RunParams.load("smoke", output_dir=tmp_path / "a" / "b"), gpus=[])
    refuse_what_cannot_run(RunParams.load("gemma3_smoke", output_dir=tmp_path), gpus=[H200])
    assert list(tmp_path.iterdir()) == []


# notebooks that were edited


def test_a_batch_run_is_what_its_command_says_whatever_was_saved_in_the_notebook(tmp_path):
    source = 'preset = "smoke"\noutput_dir = None\nlora = {}\ntraining = {"max_steps": 8}'
    tagged = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "display_name": "p", "language": "python"}
    cells = [tagged, nbformat.v4.new_code_cell("print('trained with', training)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "03_a.ipynb")
    params, lines = RunParams.load("smoke", output_dir=tmp_path / "run"), []
    series.run_series(params, notebooks=[tmp_path / "03_a.ipynb"], echo=lines.append)
    assert any("trained with {}" in line for line in lines)
    assert any(
        '03_a.ipynb was saved with training = {"max_steps": 8}, which a batch run leaves out' in x for x in lines
    )


# folders that are no run, models that are programs


@pytest.mark.parametrize("command", [["report", "HERE"], ["compare", "HERE", "HERE/other"]])
def test_a_folder_that_is_no_run_is_named_with_the_runs_that_are_there(capsys, tmp_path, command):
    for name in ("first", "second"):
        run = RunDirectory(tmp_path / "outputs" / name)
        run.write_json(run.manifest_path, {})
    said = refused(capsys, *(part.replace("HERE", str(tmp_path)) for part in command))
    assert "is no run directory" in said and f"{tmp_path}/outputs/first, {tmp_path}/outputs/second" in said
    assert not (tmp_path / "report.html").exists()


def test_a_run_that_is_not_there_is_named_with_those_beside_it(capsys, tmp_path):
    run = RunDirectory(tmp_path / "smoke")
    run.write_json(run.manifest_path, {})
    assert f"runs there are {tmp_path}/smoke" in refused(capsys, "report", str(tmp_path / "smok"))
    assert "is no run directory" in refused(capsys, "export", str(tmp_path))


def test_gguf_without_a_gpu_says_what_goes_without_one(trained_run, tmp_path):
    params = trained_run["params"]
    with pytest.raises(PolicyError, match="needs an NVIDIA GPU, and there is none here.*leave out --gguf"):
        export_final_model(trained_run["run"].final_model_dir, params.model, tmp_path, gguf="q8_0")


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def checkpoint(folder, trap, weights="pytorch_model.bin"):
    from nbhelpers.embedded.model import embedded_path

    shutil.copytree(embedded_path(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / weights).write_bytes(pickle.dumps(Payload(trap)))
    return folder


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_weights_that_are_a_pickle_are_not_loaded(tmp_path, weights):
    folder = checkpoint(tmp_path / "model", tmp_path / "trap", weights)
    params = RunParams.load("smoke", output_dir=tmp_path / "run", model={"name": str(folder)})
    with pytest.raises(PolicyError, match=rf"holds its weights as a pickle \({weights}\), which is a program"):
        load_policy(params.model)
    with pytest.raises(NotReadyError, match="model: .*as a pickle"):
        refuse_what_cannot_run(params, gpus=[])
    assert not (tmp_path / "trap").exists()


def test_an_adapter_that_is_a_pickle_is_not_loaded(trained_run, tmp_path):
    folder = tmp_path / "final_model"
    names = ("adapter_config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json", "config.json")
    folder.mkdir()
    for name in names:
        shutil.copy(trained_run["run"].final_model_dir / name, folder)
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "trap")))
    with pytest.raises(PolicyError, match="holds no adapter_model.safetensors; an adapter as a pickle"):
        load_final_model(folder, trained_run["params"].model)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    ("name", "mended"),
    [("final_model", "resume=true to write it again"), ("checkpoint-3", "another checkpoint")],
)
def test_a_damaged_adapter_is_told_with_what_mends_it(trained_run, tmp_path, name, mended):
    folder = shutil.copytree(trained_run["run"].final_model_dir, tmp_path / name)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(PolicyError, match=f"{name} is damaged: .*{mended}"):
        load_final_model(folder, trained_run["params"].model)


@pytest.mark.parametrize("file", ["config.json", "processor_config.json"])
def test_a_model_that_brings_code_is_refused_without_a_question(tmp_path, monkeypatch, file):
    from nbhelpers.embedded.model import embedded_path

    folder = shutil.copytree(embedded_path(), tmp_path / "model")
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'trap')!r}, 'w')\nclass Theirs: pass\n")
    names = ("AutoConfig", "AutoModelForImageTextToText", "AutoProcessor")
    config = json.loads((folder / file).read_text()) | {"auto_map": dict.fromkeys(names, "theirs.Theirs")}
    for key in ("model_type", "processor_class"):
        config[key] = "theirs"
    (folder / file).write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question on the console"))
    params = RunParams.load("smoke", model={"name": str(folder)})
    load = load_policy if file == "config.json" else load_processor
    with pytest.raises(PolicyError, match="brings code of its own, which is never run"):
        load(params.model)
    assert not (tmp_path / "trap").exists()
