"""One vLLM for all processes: the adapter alone goes to it, and it says what the trainer would say.

`vllm_server` stands in for `vllm serve`; `tests/gpu/test_real_server.py` has the real one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import torch
from tiny_policy import policy_with_adapter, randomise_adapter, some_problems
from vllm_server import ServedPolicy, serving

from nbhelpers.params import ModelParams, ParamsError, RunParams
from nbhelpers.policy import load_policy, start_engine, verify
from nbhelpers.policy.vllm import served
from nbhelpers.policy.vllm.engine import engine_arguments, serve
from nbhelpers.policy.vllm.setup import GenerationError
from nbhelpers.problems import load_problems
from nbhelpers.runs import RunDirectory
from nbhelpers.training import check, num_processes, train

LENGTH = {"length": 12, "mode": "token_truncate"}


class Deaf:
    """A server that resets a connection for each entry of `left`, and answers then."""

    def __init__(self, left):
        self.left = left

    def answer(self, path, body):
        if self.left:
            self.left.pop()
            raise ConnectionResetError
        return {"fine": True}


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("NBHELPERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(served.SERVER, raising=False)


@pytest.fixture(scope="module")
def server():
    there = ServedPolicy()
    with serving(there) as url:
        there.url = url
        yield there


@pytest.fixture
def policy(server):
    params = ModelParams(name="embedded", load_in_4bit=False, fast_inference=True, vllm_server=server.url)
    found = policy_with_adapter(model={"fast_inference": True, "vllm_server": server.url})
    start_engine(found, params)
    return found


def test_server_and_trainer_agree_with_every_adapter_and_without(policy, server):
    problems = some_problems(4)
    for seed in (1, 2):
        randomise_adapter(policy, std=0.3, seed=seed)
        report, warning = verify(policy, policy.engine, problems["prompt"], problems["image"], **LENGTH)
        assert report.mean < 0.01 and warning is None  # the adapter goes over in bfloat16
        assert list(server.adapters) == [policy.engine.request], "the one before is given back"
    with policy.without_adapter():
        policy.sample(problems["prompt"], problems["image"], max_new_tokens=4, temperature=1.0)
    assert server.asked[-1][1]["model"] == "base"


def test_an_adapter_that_does_not_arrive_is_caught(policy, monkeypatch):
    problems = some_problems(4)
    randomise_adapter(policy, std=0.3, seed=5)
    monkeypatch.setattr(type(policy.engine), "take_adapter", lambda self, model: None)
    with pytest.raises(GenerationError, match="learn little or nothing"):
        verify(policy, policy.engine, problems["prompt"], problems["image"], **LENGTH)


def test_a_picture_is_prepared_once_and_a_group_is_one_request(policy, server):
    problems = some_problems(2)
    prompts, images = policy.prompt_ids(problems["prompt"]), list(problems["image"])
    before = len(server.asked)
    ids, logps = policy.engine.generate([*prompts, prompts[0]], [*images, images[0]], n=3, max_tokens=5)
    paths = [path for path, _ in server.asked[before:]]
    assert paths.count("/v1/chat/completions/render") == 2 and paths.count("/inference/v1/generate") == 3
    seeds = [5, 6, 7]
    policy.engine.generate([*prompts, prompts[0]], [*images, images[0]], seeds=seeds, max_tokens=2)
    sent = [body["sampling_params"]["seed"] for path, body in server.asked[before:] if path.endswith("generate")]
    assert sorted(sent[3:]) == seeds and set(sent[:3]) == {None}
    assert len(ids) == 9 and all(len(row) == len(tokens) for row, tokens in zip(logps, ids, strict=True))


def test_of_two_processes_the_first_loads_the_adapter(policy, server):
    randomise_adapter(policy, seed=8)
    other = served.served_engine(server.url, [], [], policy.engine.image_id)
    before = len(server.asked)
    for engine in (policy.engine, other):
        engine.take_adapter(policy.model)
    assert other.request == policy.engine.request and list(server.adapters)[-1] == other.request
    assert [path for path, _ in server.asked[before:]].count("/v1/load_lora_adapter") == 2


def test_a_server_that_cannot_take_the_adapter_says_why(policy, monkeypatch, server):
    randomise_adapter(policy, seed=9)
    monkeypatch.setattr(server, "max_lora_rank", 8)
    with pytest.raises(GenerationError, match="LoRA rank 16 is greater than max_lora_rank 8.*NBHELPERS_CACHE"):
        policy.engine.take_adapter(policy.model)


def test_no_server_is_a_sentence():
    with pytest.raises(GenerationError, match="does not answer at http://127.0.0.1:9/v1/models"):
        served.served_engine("http://127.0.0.1:9", [], [], 0)


@pytest.mark.parametrize(("resets", "answered"), [(2, True), (9, False)])
def test_a_connection_that_is_reset_is_made_again_a_few_times(monkeypatch, resets, answered):
    """A process with 64 requests at once meets it: of 3,000 requests to a loaded server 129 were reset."""
    monkeypatch.setattr("urllib3.Retry.DEFAULT_BACKOFF_MAX", 0)
    left = [None] * resets
    with serving(Deaf(left)) as url:
        if answered:
            assert served._asked(f"{url}/health", b"{}") == {"fine": True} and not left
        else:
            with pytest.raises(GenerationError, match="does not answer at .*Is it running"):
                served._asked(f"{url}/health", b"{}")
            assert len(left) == resets - 1 - served._TRIES


def test_a_prompt_has_one_picture_in_a_row():
    assert served.place_of_picture([1, 7, 7, 7, 2], 7) == {"offset": 1, "length": 3}
    for ids in ([1, 2], [7, 1, 7]):
        with pytest.raises(GenerationError, match="one picture's tokens in a row"):
            served.place_of_picture(ids, 7)


@pytest.mark.slow
def test_two_processes_train_with_one_server(tmp_path, server):
    model = {"fast_inference": True, "vllm_server": server.url}
    training = {
        "per_device_train_batch_size": 16, "num_generations": 4, "max_steps": 3, "max_completion_length": 24,
        "probes": 2, "probe_steps": 1, "num_processes": 2, "learning_rate": 3e-3, "save_steps": 100,
    }  # fmt: skip
    sections = {"model": model, "training": training, "dataset": {"max_samples": 64}}
    params, run = RunParams.load("smoke", output_dir=tmp_path, **sections), RunDirectory(tmp_path)
    policy = load_policy(params.model, params.lora, params.training)
    before = len(server.asked)
    result = train(policy, load_problems(params.dataset), params, run)
    lines = run.read_jsonl(run.metrics_path)
    gaps = [line["sampling/sampling_logp_difference/mean"] for line in lines]
    assert result.steps == 3 and result.adapter_norm > 0 and max(gaps) < 0.01
    assert run.read_manifest()["parity"]["mean"] < 0.01
    loaded = {body["lora_name"] for path, body in server.asked[before:] if path == "/v1/load_lora_adapter"}
    assert len(loaded) == 4, "one at the start and one after each step, whichever process asks first"
    rows = run.read_jsonl(run.samples_path)
    assert [sum(row["step"] == step and row.get("role") != "probe" for row in rows) for step in (1, 2, 3)] == [16] * 3
    # The process that looks on is served as well.
    assert len(policy.sample(some_problems(1)["prompt"], some_problems(1)["image"], max_new_tokens=4)) == 1


# starting one


def stand_in_for_vllm(
    folder, monkeypatch, text="from runpy import run_module\nrun_module('vllm_server', run_name='__main__')"
):
    for package in ("vllm", "vllm/entrypoints", "vllm/entrypoints/cli"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text("")
    (folder / "vllm/entrypoints/cli/main.py").write_text(text)
    tests = os.path.dirname(__file__)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), tests, *sys.path]))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_auto_starts_a_server_on_the_last_gpu_once(tmp_path, monkeypatch):
    children = []

    class Popen(subprocess.Popen):
        def __init__(self, line, **rest):
            self.given = rest["env"]
            children.append(self)
            super().__init__(line, **rest)

    monkeypatch.setattr(served.subprocess, "Popen", Popen)
    stand_in_for_vllm(tmp_path, monkeypatch)
    url = serve(ModelParams(name="a/model", vllm_server="auto"), 12)
    (child,) = children
    try:
        assert serve(ModelParams(name="a/model", vllm_server="auto"), 12) == url == os.environ[served.SERVER]
        assert child.given["CUDA_VISIBLE_DEVICES"] == "2" and child.given["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
        assert child.args[3:5] == ["serve", "a/model"] and "external_launcher" not in child.args
        flags = dict(zip(child.args, child.args[1:], strict=False))
        assert flags["--max-lora-rank"] == "16" and flags["--logprobs-mode"] == "processed_logprobs"
        assert flags["--limit-mm-per-prompt"] == '{"image": 1}' and "--enable-lora" in flags
        assert served.served_engine(url, [], [], 0).base == "base"
    finally:
        served._end(child)
    assert child.poll() is not None and served.SERVER not in os.environ


@pytest.mark.slow
def test_a_server_ends_with_the_process_that_started_it(tmp_path, monkeypatch):
    stand_in_for_vllm(tmp_path, monkeypatch)
    code = "import torch; torch.cuda.device_count = lambda: 2\n"
    code += "from nbhelpers.params import ModelParams\nfrom nbhelpers.policy.vllm.engine import serve\n"
    code += "print(serve(ModelParams(name='m', vllm_server='auto'), 16), flush=True)\nimport time; time.sleep(600)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    url = next(line for line in parent.stdout if line.startswith("http")).strip()
    assert served.served_engine(url, [], [], 0).base == "base"
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            served.served_engine(url, [], [], 0)
        except GenerationError:
            return
        time.sleep(0.2)
    pytest.fail("the server went on")


def test_a_server_that_does_not_start_leaves_its_last_lines(tmp_path, monkeypatch):
    stand_in_for_vllm(tmp_path, monkeypatch, "raise SystemExit('no kernel image is available')")
    with pytest.raises(GenerationError, match="ended with exit code 1(.|\n)*no kernel image is available"):
        serve(ModelParams(name="a/model", vllm_server="auto"), 16)


def test_one_gpu_is_too_few_for_a_server_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(GenerationError, match="takes a GPU of its own, and there is one here"):
        serve(ModelParams(name="a/model", vllm_server="auto"), 16)


def test_the_gpu_that_serves_trains_nothing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    model = {"vllm_server": "auto", "fast_inference": True}
    assert num_processes(RunParams.load("full", model=model, training={"num_processes": "auto"})) == 4
    with pytest.raises(RuntimeError, match="is 8, and there are 4 GPUs beside the one that serves"):
        num_processes(RunParams.load("full", model=model, training={"num_processes": 8}))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ({"vllm_server": "auto"}, "fast_inference true"),
        ({"vllm_server": "auto", "fast_inference": True, "backend": "unsloth"}, "backend transformers"),
        ({"vllm_server": "localhost:8000", "fast_inference": True}, "vllm_server"),
    ],
)
def test_what_a_server_does_not_go_with_is_said(model, sentence):
    with pytest.raises(ParamsError, match=sentence):
        RunParams.load("smoke", model=model)


def test_trls_own_way_to_a_server_is_refused_with_ours(tmp_path):
    params = RunParams.load("smoke", output_dir=tmp_path, training={"grpo": {"vllm_mode": "server"}})
    with pytest.raises(ParamsError, match="vllm_mode is 'server'.*model.vllm_server=auto"):
        check(params)


def test_every_argument_of_the_engine_is_a_word_of_the_command():
    arguments = engine_arguments("m", ModelParams(load_in_4bit=True), completions=4, lora_rank=8)
    line = served.serve_command("m", arguments, 8000)
    assert line.count("m") == 1 and "--model" not in line
    assert "--quantization" in line and "--revision" not in line and "--disable-hybrid-kv-cache-manager" in line
