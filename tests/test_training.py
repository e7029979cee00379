"""The training loop: what moves, what is recorded, what repeats, what is refused."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from tiny_policy import two_steps

from nbhelpers.params.run_params import RunParams
from nbhelpers.params.sentences import ParamsError
from nbhelpers.policy.loading import load_policy
from nbhelpers.problems import asking, loading
from nbhelpers.runs.directory import RunDirectory
from nbhelpers.training import configuration, fitting, inside_trl
from nbhelpers.training.configuration import TrainingError, grpo_arguments
from nbhelpers.training.fitting import must_recompute, out_of_memory, row_lengths
from nbhelpers.training.trainer import drop_overlong, train


def test_every_trained_parameter_moved_and_no_frozen_one_did(trained_run):
    before, policy = trained_run["before"], trained_run["policy"]
    moved, stayed = [], []
    for name, parameter in policy.model.named_parameters():
        trained, old = before[name]
        (moved if trained else stayed).append((name, torch.equal(old, parameter.detach())))
    assert moved and stayed
    assert [name for name, same in moved if same] == []
    assert [name for name, same in stayed if not same] == []


def test_the_adapter_is_saved_with_processor_and_config(trained_run):
    final = trained_run["run"].final_model_dir
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "config.json"} <= {
        p.name for p in final.iterdir()
    }
    assert trained_run["result"].adapter_norm > 0


def test_there_is_a_line_of_metrics_a_step(trained_run):
    run = trained_run["run"]
    lines = run.read_jsonl(run.metrics_path)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert {
        "reward",
        "rewards/formatting/mean",
        "rewards/correctness/mean",
        "frac_reward_zero_std",
        "loss",
        "entropy",
    } <= set(lines[0])


def test_every_completion_is_recorded_with_its_group_reward_and_advantage(trained_run):
    run, params = trained_run["run"], trained_run["params"]
    rows = run.read_jsonl(run.samples_path)
    plan = params.training.batch_plan()
    assert len(rows) == 3 * plan.completions_per_step
    for start in range(0, len(rows), 4):
        group = rows[start : start + 4]
        assert len({row["group"] for row in group}) == 1 and [row["index"] for row in group] == [0, 1, 2, 3]
        assert len({(row["pid"], row["prompt"]) for row in group}) == 1
        mean = sum(row["reward"] for row in group) / 4
        assert [row["advantage"] for row in group] == pytest.approx([row["reward"] - mean for row in group], abs=1e-5)
    assert all((run.path / row["image"]).is_file() for row in rows)


def test_recorded_rewards_are_what_the_reward_functions_pay(trained_run):
    from nbhelpers.rewards.functions import correctness_reward_func, formatting_reward_func

    rows = trained_run["run"].read_jsonl(trained_run["run"].samples_path)
    texts = [row["completion"] for row in rows]
    columns = {k: [row[k] for row in rows] for k in ("choices", "unit", "precision", "question_type", "answer_type")}
    assert [row["rewards"]["formatting"] for row in rows] == formatting_reward_func(texts)
    paid = correctness_reward_func([row["prompt"] for row in rows], texts, [row["answer"] for row in rows], **columns)
    assert [row["rewards"]["correctness"] for row in rows] == paid
    assert all(row["correct"] == (row["rewards"]["correctness"] == 2.0) for row in rows)


def test_metrics_agree_with_the_samples(trained_run):
    run = trained_run["run"]
    rows = run.read_jsonl(run.samples_path)
    for line in run.read_jsonl(run.metrics_path):
        rewards = [row["reward"] for row in rows if row["step"] == line["step"]]
        assert line["reward"] == pytest.approx(sum(rewards) / len(rewards), abs=1e-4)


def test_the_manifest_says_what_was_run(trained_run):
    manifest = trained_run["run"].read_manifest()
    assert manifest["grpo_config"]["loss_type"] == "dr_grpo" and manifest["grpo_config"]["scale_rewards"] == "none"
    assert manifest["backend"] == "transformers" and manifest["versions"]["trl"]
    assert manifest["trainable_parameters"]["vision trained"] == 0


def test_the_same_seed_gives_the_same_samples(trained_run, tmp_path, tiny_params):
    params = tiny_params(tmp_path)
    again = RunDirectory(params.output_dir)
    train(
        load_policy(params.model, params.lora, seed=params.training.seed),
        loading.load_problems(params.dataset),
        params,
        again,
    )
    first = trained_run["run"]
    norms = [[line["grad_norm"] for line in run.read_jsonl(run.metrics_path)] for run in (first, again)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert again.samples_path.read_bytes() == trained_run["run"].samples_path.read_bytes()


def test_another_seed_starts_from_another_adapter(trained_run):
    params = trained_run["params"]
    first, again, other = (load_policy(params.model, params.lora, seed=seed) for seed in (1, 1, 2))
    weights = [{n: p for n, p in policy.model.named_parameters() if "lora_A" in n} for policy in (first, again, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not any(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(trained_run, tmp_path, tiny_params):
    """Stop after step 2 (a checkpoint), resume to step 3: the third step's samples are those of the unbroken run."""

    class Stop(Exception):
        pass

    def stop_after_two(line):
        if line["step"] == 3:
            raise Stop

    params = tiny_params(tmp_path)
    run = RunDirectory(params.output_dir)
    with pytest.raises(Stop):
        train(
            load_policy(params.model, params.lora),
            loading.load_problems(params.dataset),
            params,
            run,
            on_log=stop_after_two,
        )
    resumed = tiny_params(tmp_path, training={"resume": True})
    result = train(load_policy(resumed.model, resumed.lora), loading.load_problems(resumed.dataset), resumed, run)
    assert (result.resumed_from, result.steps) == (2, 3)
    assert run.samples_path.read_bytes() == trained_run["run"].samples_path.read_bytes()
    assert [line["step"] for line in run.read_jsonl(run.metrics_path)] == [1, 2, 3]


def test_a_second_training_sets_the_first_one_aside(tmp_path, tiny_params):
    params = tiny_params(tmp_path, training={"max_steps": 1})
    run = RunDirectory(params.output_dir)
    problems = loading.load_problems(params.dataset)
    train(load_policy(params.model, params.lora), problems, params, run)
    first = run.samples_path.read_bytes()
    train(load_policy(params.model, params.lora), problems, params, run)
    kept = list((run.path / "previous").rglob("samples.jsonl"))
    assert [path.read_bytes() for path in kept] == [first]


def arguments_for(**training_section):
    params = RunParams.load("smoke", training=training_section)
    return grpo_arguments(params, params.training.batch_plan(), RunDirectory(params.output_dir), on_gpu=False)


def test_any_other_field_of_grpo_config_can_be_set():
    assert arguments_for(grpo={"beta": 0.04, "epsilon_high": 0.28})["beta"] == 0.04


def test_each_token_is_weighed_by_itself_unless_a_person_says_otherwise():
    """Unsloth's generated configuration has the correction off where it is not named."""
    mode = "vllm_importance_sampling_mode"
    assert arguments_for()[mode] == "token_truncate" and arguments_for()["vllm_importance_sampling_correction"]
    assert arguments_for(grpo={mode: "sequence_mask"})[mode] == "sequence_mask"


def test_an_unknown_field_is_refused_before_a_model_is_loaded(tmp_path):
    params = RunParams.load("smoke", output_dir=tmp_path, training={"grpo": {"max_grad_nrom": 1.0}})
    with pytest.raises(ParamsError, match="max_grad_nrom.*did you mean max_grad_norm"):
        configuration.check(params)
    assert configuration.check(RunParams.load("smoke", output_dir=tmp_path)).completions_per_step == 96


def test_an_unknown_field_of_grpo_config_is_refused_with_the_nearest_one():
    with pytest.raises(ParamsError, match="'epsilon_hihg'.*did you mean epsilon_high"):
        arguments_for(grpo={"epsilon_hihg": 0.28})


@pytest.mark.parametrize(
    ("grpo", "said"),
    [
        ({"beta": "abc"}, "training.grpo.beta is 'abc': Input should be a valid number"),
        ({"beta": "0.5"}, "training.grpo.beta is the text '0.5': write 0.5"),
        ({"num_iterations": 1.5}, "training.grpo.num_iterations is 1.5: Input should be a valid integer"),
        ({"optim": "adamw_torhc"}, "training.grpo.optim has no value 'adamw_torhc'; did you mean adamw_torch?"),
        ({"lr_scheduler_type": ["linear"]}, r"training.grpo.lr_scheduler_type is \['linear'\]"),
    ],
)
def test_a_value_that_a_field_of_grpo_config_cannot_have_is_refused_before_a_model_is_loaded(grpo, said):
    with pytest.raises(ParamsError, match=said):
        configuration.check(RunParams.load("smoke", training={"grpo": grpo}))


def test_fields_that_unsloth_adds_are_taken_and_trls_are_still_checked(monkeypatch):
    """Its generated class stands in TRL's place, with annotations that only its own module could resolve."""
    import trl

    monkeypatch.setitem(sys.modules, "UnslothGRPOTrainer", SimpleNamespace())
    added = dataclasses.make_dataclass(
        "UnslothGRPOConfig", [("unsloth_num_chunks", "NowhereToBeFound", dataclasses.field(default=-1))],
        bases=(trl.GRPOConfig,), namespace={"__module__": "UnslothGRPOTrainer"},
    )  # fmt: skip
    monkeypatch.setattr(trl, "GRPOConfig", added)
    assert arguments_for(grpo={"unsloth_num_chunks": 4, "beta": 0.1})["unsloth_num_chunks"] == 4
    with pytest.raises(ParamsError, match="beta is 'abc'"):
        arguments_for(grpo={"beta": "abc"})


def test_what_trl_itself_refuses_is_a_sentence(tmp_path):
    with pytest.raises(ParamsError, match="TRL refuses these settings of training: .*at least 2 generations"):
        configuration.grpo_config({"output_dir": str(tmp_path), "bf16": False, "num_generations": 1})


@pytest.mark.parametrize(("loss", "scale"), [("dr_grpo", "none"), ("dapo", "group")])
def test_dr_grpo_does_not_divide_by_the_spread_unless_told_to(loss, scale):
    params = RunParams.load("smoke")
    section = params.training.model_copy(update={"loss_type": loss, "grpo": {}})
    arguments = grpo_arguments(
        params.model_copy(update={"training": section}),
        section.batch_plan(),
        RunDirectory(params.output_dir),
        on_gpu=False,
    )
    assert arguments["scale_rewards"] == scale


def test_prompts_that_do_not_fit_are_dropped_and_counted_never_cut(embedded_policy, tmp_path):
    params = RunParams.load("smoke", output_dir=tmp_path, dataset={"max_samples": 20})
    dataset = asking.grpo_dataset(loading.load_problems(params.dataset).train, params)
    lengths = sorted(embedded_policy.prompt_length(prompt) for prompt in dataset["prompt"])
    assert lengths[0] < lengths[-1]
    room = lengths[-1] - 1 + params.training.max_completion_length
    tight = params.model_copy(update={"model": params.model.model_copy(update={"max_seq_length": room})})
    kept, measured, left_out = drop_overlong(dataset, embedded_policy, tight)
    assert sorted(measured) == [length for length in lengths if length < lengths[-1]]
    assert len(kept) == sum(length < lengths[-1] for length in lengths)
    assert {row["pid"] for row in left_out} == set(dataset["pid"]) - set(kept["pid"])
    assert all(row["tokens"] == lengths[-1] and "its prompt is longer" in row["reason"] for row in left_out)


def test_no_problem_that_fits_is_an_error(embedded_policy):
    params = RunParams.load("smoke", dataset={"max_samples": 20})
    dataset = asking.grpo_dataset(loading.load_problems(params.dataset).train, params)
    tight = params.model_copy(update={"model": params.model.model_copy(update={"max_seq_length": 60})})
    with pytest.raises(TrainingError, match="no training problem fits"):
        drop_overlong(dataset, embedded_policy, tight)


def test_out_of_memory_names_the_settings_that_would_fit():
    params = RunParams.load("full", model={"gpu_memory_utilization": 0.5})
    sentence = out_of_memory(RuntimeError("CUDA out of memory"), params, 7, recomputes=True)
    assert "step 8" in sentence
    assert "training.num_generations=2" in sentence and "model.gpu_memory_utilization" in sentence
    assert "load_in_4bit" not in sentence  # full uses 4-bit already
    assert "gradient_checkpointing" not in sentence
    kept = out_of_memory(RuntimeError("CUDA out of memory"), params, 7, recomputes=False)
    assert "in this order: --set model.use_gradient_checkpointing=true, " in kept
    auto = out_of_memory(RuntimeError("CUDA out of memory"), RunParams.load("full"), 7, recomputes=True)
    assert "gpu_memory_utilization" not in auto and "training.num_generations=2" in auto


@pytest.mark.parametrize(
    ("setting", "free", "recomputes"),
    [("unsloth", 60, False), ("unsloth", 6, True), (True, 60, True), (False, 6, False)],
)
def test_activations_are_kept_where_the_memory_holds_them(
    embedded_policy, tmp_path, monkeypatch, setting, free, recomputes
):
    """Gemma-3 4B's shape with 4 completions of 512 tokens needs some 9 GiB compiled and 14 not."""
    from transformers import Gemma3TextConfig

    params = RunParams.load("full", output_dir=tmp_path, model={"use_gradient_checkpointing": setting})
    text = {"num_hidden_layers": 34, "hidden_size": 2560, "intermediate_size": 10240, "num_attention_heads": 8,
            "head_dim": 256, "vocab_size": 262208}  # fmt: skip
    config = SimpleNamespace(text_config=Gemma3TextConfig(**text))
    policy = SimpleNamespace(backend="transformers", model=SimpleNamespace(config=config))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free * 2**30, 80 * 2**30))
    told = []
    assert must_recompute(policy, params, params.training.batch_plan(), 330, told.append) is recomputes
    assert bool(told) == (setting == "unsloth" and not recomputes)


@pytest.mark.parametrize(("free", "at_once"), [(60, False), (14, True)])
def test_layers_are_compiled_from_the_start_where_uncompiled_ones_keep_too_much(monkeypatch, free, at_once):
    from transformers import Gemma3TextConfig

    params, quantised = (RunParams.load("full", model={"load_in_4bit": four}) for four in (False, True))
    text = Gemma3TextConfig(num_hidden_layers=34, hidden_size=2560, intermediate_size=10240, num_attention_heads=8)
    text._attn_implementation = "sdpa"
    config = SimpleNamespace(text_config=text, get_text_config=lambda: text)
    model = SimpleNamespace(config=config, device=torch.device("cuda"))
    policy = SimpleNamespace(backend="transformers", model=model)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free * 2**30, 80 * 2**30))
    monkeypatch.setattr(fitting, "has_bfloat16", lambda: True)
    plan, keeps = params.training.batch_plan(), SimpleNamespace(gradient_checkpointing=False)
    lengths = row_lengths(policy, params, keeps, plan, 330)
    assert lengths.ladder[-1] == 2432 and lengths.compiled == ({2432} if at_once else set())
    assert row_lengths(policy, quantised, keeps, plan, 330) is None
    assert row_lengths(policy, params, SimpleNamespace(gradient_checkpointing=True), plan, 330) is None
    monkeypatch.setattr(fitting, "has_bfloat16", lambda: False)
    assert row_lengths(policy, params, keeps, plan, 330) is None


@pytest.mark.slow
def test_two_processes_train_one_policy_and_keep_every_sample(tmp_path):
    settings = (
        "training.max_steps=2", "training.per_device_train_batch_size=16", "dataset.max_samples=64",
        "training.probes=0",
    )  # fmt: skip
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "-m", "nbhelpers.training", "smoke", "--output-dir", str(tmp_path)]
    command += [part for setting in settings for part in ("--set", setting)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("adapter in") == 1
    run = RunDirectory(tmp_path)
    groups = {}
    for row in run.read_jsonl(run.samples_path):
        groups.setdefault(row["group"], []).append(row)
    assert list(groups) == [
        f"{step}-{place}" for step in (1, 2) for place in range(4)
    ]  # 2 processes x 8 completions, groups of 4
    for rows in groups.values():
        assert len({row["pid"] for row in rows}) == 1 and [row["index"] for row in rows] == [0, 1, 2, 3]
        assert sum(row["advantage"] for row in rows) == pytest.approx(0, abs=1e-5)
        assert all((row["rewards"]["correctness"] > 0) == row["correct"] for row in rows)
    assert run.read_manifest()["batch"] == {"completions_per_step": 16, "prompts_per_step": 4}


def heads_used_by(policy, folder, before=lambda trainer: None):
    """The adapter and the log after two steps with TRL, and the widths of what the language head made for the loss."""
    widths = []
    head = policy.model.get_output_embeddings()
    hook = head.register_forward_hook(
        lambda module, inputs, out: widths.append(out.shape[1]) if out.requires_grad else None
    )
    trainer, adapter = two_steps(policy, folder, before=before, gradient_checkpointing=True)
    hook.remove()
    return adapter, trainer.state.log_history, widths


def test_log_probs_in_chunks_train_as_all_at_once_without_the_logits(tmp_path):
    params = RunParams.load("smoke")
    policy = load_policy(params.model, params.lora)
    whole, log, heads = heads_used_by(policy, tmp_path / "whole")
    parts, log_of_parts, heads_of_parts = heads_used_by(policy, tmp_path / "parts", inside_trl.log_probs_in_chunks)
    assert heads and not heads_of_parts
    assert any(not torch.equal(value, torch.zeros_like(value)) for value in whole.values())
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-5, msg=name)
    for key in ("loss", "entropy", "reward"):
        assert [line[key] for line in log_of_parts if key in line] == pytest.approx(
            [line[key] for line in log if key in line], abs=1e-4
        )
