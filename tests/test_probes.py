"""Probes are kept out of training, asked early and late, and left out of everything that is training's own."""

from __future__ import annotations

import json

import pytest

from nbhelpers.policy import load_policy
from nbhelpers.problems import kind_of, load_problems
from nbhelpers.runs import RunDirectory, SampleStore
from nbhelpers.training import train
from nbhelpers.training.selecting import set_aside_probes


@pytest.fixture(scope="module")
def probed(tmp_path_factory, tiny_params):
    params = tiny_params(
        tmp_path_factory.mktemp("probed"), training={"probes": 3, "probe_steps": 2}, dataset={"max_samples": 64}
    )
    run = RunDirectory(params.output_dir)
    problems = load_problems(params.dataset)
    policy = load_policy(params.model, params.lora, seed=params.training.seed)
    train(policy, problems, params, run)
    return problems, run, params


def test_each_kind_has_a_probe_in_turn_and_none_is_trained_on(tiny_params, tmp_path):
    rows = load_problems(tiny_params(tmp_path, dataset={"max_samples": 160}).dataset).train
    learnt, probes = set_aside_probes(rows, 6)
    kinds = [kind_of(row) for row in probes]
    assert len(set(kinds)) == len(kinds) == 6
    assert not set(learnt["pid"]) & set(probes["pid"]) and len(learnt) + len(probes) == len(rows)
    assert learnt["pid"] == [pid for pid in rows["pid"] if pid not in probes["pid"]]


def test_a_small_data_set_keeps_its_problems_and_none_is_taken_where_none_is_wanted(tiny_params, tmp_path):
    rows = load_problems(tiny_params(tmp_path, dataset={"max_samples": 40}).dataset).train
    assert len(set_aside_probes(rows, 50)[1]) == len(rows) // 10
    learnt, probes = set_aside_probes(rows, 0)
    assert learnt["pid"] == rows["pid"] and len(probes) == 0


def test_the_same_problems_are_asked_before_between_and_after(probed):
    problems, run, params = probed
    rows = [row for row in run.read_jsonl(run.samples_path) if row.get("role") == "probe"]
    asked = {}
    for row in rows:
        asked.setdefault(row["step"], []).append(row["pid"])
        assert (
            row["advantage"] is None
            and (run.path / row["image"]).is_file()
            and row["reward"] == sum(row["rewards"].values())
        )
    assert list(asked) == [0, 2, 3] and len(set(map(tuple, asked.values()))) == 1
    trained = {row["pid"] for row in run.read_jsonl(run.samples_path) if "role" not in row}
    assert trained and not trained & set(asked[0])


def test_metrics_and_the_viewers_store_are_training_s_own(probed):
    _, run, params = probed
    lines = run.read_jsonl(run.metrics_path)
    assert [("probe/accuracy" in line) for line in lines] == [
        True,
        True,
        True,
    ]  # from before step 1, after 2 and after 3
    rows = run.read_jsonl(run.samples_path)
    store, probes = SampleStore(run.path), SampleStore(run.path, role="probe")
    assert len(store) + len(probes) == len(rows) and len(probes) == 9
    assert {row["group"] for number in store.groups() for row in store.group(number).rows}.isdisjoint(
        row["group"] for row in rows if row.get("role") == "probe"
    )
    assert len(store) == params.training.batch_plan().completions_per_step * params.training.max_steps


def test_a_probe_is_shown_early_and_late(probed):
    from nbhelpers.show import probe_strips

    _, run, _ = probed
    page = str(probe_strips(run.path, n=2))
    assert page.count("a probe: never trained on") == 2
    assert page.count("before training") == 2 and page.count("after 3 steps") == 2 and page.count("<img") == 2


def test_asking_does_not_change_what_is_learnt(probed, tiny_params, tmp_path):
    """The same problems without probes in between: the same completions, byte for byte."""
    problems, run, params = probed
    learnt, _ = set_aside_probes(problems.train, 3)
    import dataclasses

    again = tiny_params(tmp_path, training={"probes": 0}, dataset={"max_samples": 64})
    policy = load_policy(again.model, again.lora, seed=again.training.seed)
    train(policy, dataclasses.replace(problems, train=learnt), again, RunDirectory(tmp_path))
    own = [line for line in run.samples_path.read_bytes().splitlines() if json.loads(line).get("role") != "probe"]
    assert own == (tmp_path / "samples.jsonl").read_bytes().splitlines()


def test_what_vllm_said_of_its_tokens_is_kept_beside_the_samples(embedded_policy, tmp_path):
    """The recorder on a rollout as TRL shows it, with the log-probs that come with vLLM alone."""
    from types import SimpleNamespace

    import torch
    from PIL import Image

    from nbhelpers.params import DEFAULT_DELIMITERS
    from nbhelpers.runs import SampleWriter, TokenLogProbs, read_log_probs
    from nbhelpers.training.recording import Recorder

    run, processor = RunDirectory(tmp_path), embedded_policy.processor
    texts = ["<SOLUTION>6</SOLUTION>", "<REASONING>At a glance: 6.</REASONING>"]
    end = processor.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    ids = [[*processor.tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in texts]
    trainer = SimpleNamespace(
        state=SimpleNamespace(global_step=0), reward_func_names=["own"], reward_weights=torch.ones(1),
        num_generations=2, eos_token_ids={end}, processing_class=processor,
        sampled_log_probs=torch.full((2, 40), -0.25),
    )  # fmt: skip
    prompt = [{"role": "user", "content": "How many?"}]
    example = {"pid": "p", "kind": "count", "answer": "6", "question": "How many?", "prompt": prompt}
    picture = Image.new("RGB", (8, 8))
    Recorder(SampleWriter(run), DEFAULT_DELIMITERS)(
        trainer, [example | {"image": picture}] * 2, texts, ids, [[1.0], [0.0]], [0.5, -0.5]
    )
    found = {key: TokenLogProbs.unpacked(line) for key, line in read_log_probs(run).items()}
    assert [len(found[f"1-0/{place}"].log_probs) for place in (0, 1)] == [len(row) for row in ids]
    assert set(found["1-0/1"].log_probs) == {-0.25}
    lengths = found["1-0/0"].lengths
    assert sum(lengths) == len(texts[0]) and lengths[-1] == 0
    from nbhelpers.show.packing import Packer

    packed = Packer(run.path).rows("rollout", 0)
    assert [len(row) for row in packed] == [12, 12] and packed[0][11][0] == lengths
