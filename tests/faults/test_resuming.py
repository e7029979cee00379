"""Going on with a run: nothing is trained twice, mixed with other settings, or taken from a damaged checkpoint."""

from __future__ import annotations

import re
import shlex
import shutil

import pytest
import torch

from nbhelpers.cli import make_parser
from nbhelpers.evaluation import evaluate, evaluate_run
from nbhelpers.params import PlainError
from nbhelpers.policy import Policy, load_policy, load_weights, save_final_model
from nbhelpers.problems import load_problems
from nbhelpers.runs import RunDirectory, flaw, read_seal, writing
from nbhelpers.training import TrainingError, check, train, train_if_missing
from nbhelpers.training.resuming import how_to_go_on, standing

RESUME = {"resume": True}


@pytest.fixture
def finished(trained_run, tmp_path):
    """A copy of the finished run of 3 steps, with checkpoints of steps 2 and 3."""
    shutil.copytree(trained_run["run"].path, tmp_path / "run")
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def params_of(tiny_params):
    return lambda run, **sections: tiny_params(run.path, **sections)


def contents(run):
    return {path: path.read_bytes() for path in sorted(run.path.rglob("*")) if path.is_file()}


def fresh_policy(params):
    return load_policy(params.model, params.lora, seed=params.training.seed)


def go_on(run, params):
    policy = fresh_policy(params)
    return train(policy, load_problems(params.dataset), params, run), policy


def steps_of(run):
    return [line["step"] for line in run.read_jsonl(run.metrics_path)]


def adapter_of(run):
    return (run.final_model_dir / "adapter_model.safetensors").read_bytes()


def test_nothing_is_done_where_nothing_is_left_to_do(finished, params_of, trained_run, capsys):
    before = contents(finished)
    result, policy = go_on(finished, params_of(finished, training=RESUME))
    assert contents(finished) == before
    assert (result.steps, result.resumed_from) == (3, 3)
    assert "Nothing is left to train" in capsys.readouterr().out
    trained = dict(trained_run["policy"].model.named_parameters())
    assert all(torch.equal(trained[name], p) for name, p in policy.model.named_parameters() if "lora_" in name)


def test_a_run_killed_after_its_last_step_gets_its_final_model_and_no_further_step(finished, params_of):
    adapter, metrics, samples = (
        adapter_of(finished),
        finished.metrics_path.read_bytes(),
        finished.samples_path.read_bytes(),
    )
    shutil.rmtree(finished.final_model_dir)
    result, _ = go_on(finished, params_of(finished, training=RESUME))
    assert result.steps == 3 and adapter_of(finished) == adapter
    assert finished.metrics_path.read_bytes() == metrics and finished.samples_path.read_bytes() == samples


OTHER = {
    "learning_rate": {"training": {"learning_rate": 1e-3}},
    "dataset.seed": {"dataset": {"seed": 7}},
    "lora.alpha": {"lora": {"alpha": 64}},
    "lora.r": {"lora": {"r": 4}},
    "per_device_train_batch_size": {"training": {"per_device_train_batch_size": 16}},
    "num_generations": {"training": {"num_generations": 2}},
    "reward.solution_start": {"reward": {"solution_start": "<ANSWER>", "solution_end": "</ANSWER>"}},
    "grpo.beta": {"training": {"grpo": {"beta": 0.1}}},
    "training.seed": {"training": {"seed": 5}},
}


@pytest.mark.parametrize("mode", [True, "extend"])
@pytest.mark.parametrize("key", OTHER)
def test_other_settings_are_shown_and_stop_before_a_model_is_loaded(finished, params_of, key, mode):
    before = contents(finished)
    sections = {name: dict(values) for name, values in OTHER[key].items()}
    sections["training"] = {**sections.get("training", {}), "resume": mode}
    with pytest.raises(TrainingError, match=rf"{key}.* in the run, .* asked for[\s\S]*never change inside a run"):
        check(params_of(finished, **sections))
    assert contents(finished) == before


def test_a_longer_run_wants_an_explicit_word(finished, params_of):
    with pytest.raises(TrainingError, match=r"max_steps +3 in the run, 5 asked for[\s\S]*resume=extend goes on"):
        check(params_of(finished, training={"max_steps": 5, **RESUME}))


def test_an_extended_run_is_the_run_that_was_that_long_from_the_start(finished, params_of, tmp_path, capsys):
    longer = {"max_steps": 5}
    go_on(finished, params_of(finished, training={**longer, "resume": "extend"}))
    assert "goes on from checkpoint-3" in capsys.readouterr().out
    straight = RunDirectory(tmp_path / "straight")
    go_on(straight, params_of(straight, training=longer))
    assert steps_of(finished) == [1, 2, 3, 4, 5]
    assert finished.samples_path.read_bytes() == straight.samples_path.read_bytes()
    assert adapter_of(finished) == adapter_of(straight)
    assert read_seal(finished.final_model_dir)["step"] == 5
    earlier = [read_seal(path)["step"] for path in finished.path.glob("previous/*/final_model")]
    assert earlier == [3]
    assert any("goes on from checkpoint-3" in notice for notice in finished.read_manifest()["notices"])


def test_an_adapter_is_not_evaluated_as_that_of_a_later_step(finished, params_of, trained_run):
    params = params_of(finished)
    finished.evaluation_path.unlink(missing_ok=True)  # another test may have evaluated the run that this is a copy of
    finished.append_jsonl(finished.metrics_path, {"step": 4, "reward": 1.0}, {"step": 5, "reward": 1.0})
    for judge in (
        lambda: train_if_missing(params, finished),
        lambda: evaluate(trained_run["policy"], load_problems(params.dataset), params, finished),
    ):
        with pytest.raises(
            TrainingError, match="is of step 3, but the run has come to step 5.*To go on: nbhelpers run"
        ):
            judge()
    assert not finished.evaluation_path.exists()


def test_a_run_with_a_line_every_few_steps_is_evaluated(finished, params_of):
    finished.write_jsonl(finished.metrics_path, finished.read_jsonl(finished.metrics_path)[:2])
    with pytest.raises(TrainingError, match="is of step 3, but the run has come to step 2"):
        train_if_missing(params_of(finished), finished)
    for every in (2, 0.5):
        finished.update_manifest(grpo_config={"logging_steps": every})
        assert train_if_missing(params_of(finished), finished) is False


def test_training_whose_directory_is_moved_away_stops_instead_of_keeping_half(tmp_path, params_of):
    run, away = RunDirectory(tmp_path / "run"), tmp_path / "away"
    params = params_of(run, training={"max_steps": 6})

    def move(line):
        if line["step"] == 3:
            run.path.rename(away)

    with pytest.raises(TrainingError, match="run was moved or deleted while training wrote there"):
        train(fresh_policy(params), load_problems(params.dataset), params, run, on_log=move)
    assert steps_of(RunDirectory(away)) == [1, 2, 3]
    result, _ = go_on(RunDirectory(away), params_of(RunDirectory(away), training={"max_steps": 6, **RESUME}))
    assert (result.resumed_from, result.steps) == (2, 6)


@pytest.mark.parametrize(
    "sections",
    [{"dataset": {"seed": 7}}, {"reward": {"solution_start": "<A>", "solution_end": "</A>"}}, {"lora": {"r": 4}}],
)
def test_a_run_is_not_evaluated_with_other_problems_or_prompts_than_it_was_trained_with(finished, params_of, sections):
    with pytest.raises(TrainingError, match="was trained with other settings"):
        train_if_missing(params_of(finished, **sections), finished)
    assert train_if_missing(params_of(finished, evaluation={"num_samples": 3}), finished) is False


def test_evaluating_an_interrupted_run_does_not_train_it_from_step_1(finished, params_of):
    shutil.rmtree(finished.final_model_dir)
    before = contents(finished)
    with pytest.raises(TrainingError, match="was interrupted after step 3. To go on: nbhelpers run .*params.yaml"):
        train_if_missing(params_of(finished), finished)
    assert contents(finished) == before
    with (
        writing(finished.path, "training"),
        pytest.raises(TrainingError, match="goes on, after step 3 .this process, .* wait for its end"),
    ):
        train_if_missing(params_of(finished), finished)
    assert train_if_missing(params_of(finished, training=RESUME), finished)
    assert steps_of(finished) == [1, 2, 3] and read_seal(finished.final_model_dir)["step"] == 3


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


DAMAGE = {
    "cut weights": ("adapter_model.safetensors", cut),
    "one bit of the weights": ("adapter_model.safetensors", flip_a_byte),
    "empty state": ("trainer_state.json", lambda path: path.write_bytes(b"")),
    "cut optimizer": ("optimizer.pt", cut),
    "no optimizer": ("optimizer.pt", lambda path: path.unlink()),
    "no scheduler": ("scheduler.pt", lambda path: path.unlink()),
    "no random state": ("rng_state.pth", lambda path: path.unlink()),
    "not written to its end": ("seal.json", lambda path: path.unlink()),
    "cut seal": ("seal.json", cut),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(finished, params_of, damage):
    name, harm = DAMAGE[damage]
    shutil.rmtree(finished.final_model_dir)
    harm(finished.checkpoints_dir / "checkpoint-3" / name)
    where = standing(params_of(finished, training=RESUME), finished)
    assert (where.step, where.checkpoint.name) == (2, "checkpoint-2")
    assert "checkpoint-3 cannot be used: " in where.notices[0] and name in where.notices[0]


def test_training_goes_on_past_a_damaged_checkpoint_and_keeps_it(finished, params_of):
    adapter, samples = adapter_of(finished), finished.samples_path.read_bytes()
    shutil.rmtree(finished.final_model_dir)
    cut(finished.checkpoints_dir / "checkpoint-3" / "optimizer.pt")
    result, _ = go_on(finished, params_of(finished, training=RESUME))
    assert (result.resumed_from, result.steps) == (2, 3)
    assert adapter_of(finished) == adapter and finished.samples_path.read_bytes() == samples
    assert not flaw(finished.checkpoints_dir / "checkpoint-3")
    assert list(finished.path.glob("previous/*/checkpoint-3"))


def test_where_no_checkpoint_is_whole_nothing_is_given_up_unasked(finished, params_of):
    shutil.rmtree(finished.final_model_dir)
    for folder in finished.checkpoints_dir.glob("checkpoint-*"):
        cut(folder / "optimizer.pt")
    with pytest.raises(TrainingError, match="no checkpoint to go on from. checkpoint-3 cannot.*checkpoint-2 cannot"):
        check(params_of(finished, training=RESUME))


def test_resume_says_that_there_is_no_checkpoint(tmp_path, tiny_params):
    where = standing(tiny_params(tmp_path, training=RESUME), RunDirectory(tmp_path))
    assert where.step == 0 and where.notices == (f"There is no checkpoint in {tmp_path}: training begins at step 1.",)


def test_other_data_behind_the_same_settings_stop(finished, params_of, trained_run):
    shutil.rmtree(finished.final_model_dir)
    shutil.rmtree(finished.checkpoints_dir / "checkpoint-3")
    finished.update_manifest(dataset={"fingerprint": "another"})
    params = params_of(finished, training=RESUME)
    with pytest.raises(TrainingError, match="fingerprint another then"):
        train(trained_run["policy"], load_problems(params.dataset), params, finished)


def test_a_run_is_not_evaluated_with_another_cut_behind_the_same_settings(finished, params_of, trained_run):
    """Rows were added to a file: the evaluated problems may be trained ones."""
    finished.update_manifest(dataset={"fingerprint": "another"})
    problems = load_problems(params_of(finished).dataset)
    with pytest.raises(TrainingError, match="fingerprint another then, .*pictures that it was trained on"):
        evaluate(trained_run["policy"], problems, params_of(finished), finished)
    with pytest.raises(TrainingError, match="fingerprint another then"):
        evaluate_run(finished.path, checkpoint="2")
    assert not finished.evaluating_path.exists()


def test_a_base_model_of_another_commit_is_refused_and_the_run_s_own_may_be_named(
    finished, params_of, trained_run, monkeypatch
):
    """With model.revision null the hub gives its newest, which may be another one than on the day before."""
    old, new = "a" * 40, "b" * 40
    finished.update_manifest(model_revision=old, dataset={"revisions": {"dataset.path": old}})
    monkeypatch.setattr(Policy, "revision", new)
    params, said = params_of(finished), f"base model at commit {old}, and this one is of commit {new}"
    problems = load_problems(params.dataset)
    with pytest.raises(TrainingError, match=said):
        evaluate(trained_run["policy"], problems, params, finished)
    with pytest.raises(TrainingError, match=said):
        evaluate_run(finished.path, checkpoint="2")
    shutil.rmtree(finished.final_model_dir)
    shutil.rmtree(finished.checkpoints_dir / "checkpoint-3")
    with pytest.raises(TrainingError, match=said):
        train(trained_run["policy"], problems, params_of(finished, training=RESUME), finished)
    named = {"model": {"revision": old}, "dataset": {"revision": old}}
    assert check(params_of(finished, training=RESUME, **named))
    with pytest.raises(TrainingError, match="model.revision +null in the run"):
        check(params_of(finished, training=RESUME, model={"revision": new}))


def test_a_run_that_goes_on_in_another_environment_says_so(finished, params_of, capsys):
    finished.update_manifest(versions={"trl": "1.0"}, hardware={"cores": 64})
    go_on(finished, params_of(finished, training={"max_steps": 4, "resume": "extend"}))
    (notice,) = [one for one in finished.read_manifest()["notices"] if "another environment" in one]
    assert notice.startswith("After step 3 the run went on") and 'versions.trl: "1.0" then' in notice
    assert "hardware.cores: 64 then" in notice and notice in capsys.readouterr().out


def test_a_run_that_goes_on_with_another_reward_of_the_same_name_warns(tmp_path, tiny_params, monkeypatch):
    """A reward may be mended and the run go on, but its curves are of two rewards then."""
    module = tmp_path / "edited_reward.py"
    monkeypatch.syspath_prepend(tmp_path)
    run, warned = RunDirectory(tmp_path / "run"), []
    for paid, training in ((1, {"max_steps": 2}), (2, {"max_steps": 3, "resume": "extend"})):
        module.write_text(f"def paid(completions, **columns):\n    return [{paid}.0] * len(completions)\n")
        params = tiny_params(run.path, training=training, reward={"functions": ["correctness", "edited_reward:paid"]})
        go_on(run, params)
        warned.append(
            [one for one in run.read_manifest().get("warnings", []) if "own_rewards.edited_reward:paid" in one]
        )
    assert not warned[0] and warned[1][0].startswith("After step 2 the run went on in another environment")


def test_the_command_that_goes_on_is_right_for_a_folder_with_spaces(finished, tmp_path):
    place = finished.path.rename(tmp_path / "my run's")
    command = re.search("nbhelpers (run .*?), or in", how_to_go_on(RunDirectory(place)))[1]
    arguments = make_parser().parse_args(shlex.split(command))
    assert (arguments.preset, arguments.output_dir) == (str(place / "params.yaml"), str(place))


@pytest.mark.parametrize("name", ["manifest.json", "metrics.jsonl"])
def test_a_damaged_record_is_named(finished, params_of, name):
    """An empty file is what a power failure leaves."""
    (finished.path / name).write_text("" if name == "manifest.json" else "garbage\n")
    with pytest.raises(PlainError, match=rf"{name} is damaged: "):
        train_if_missing(params_of(finished), finished)


def test_a_kill_while_results_move_away_leaves_nothing_that_goes_on_without_its_records(finished, params_of):
    """What stands in the way of the second move stands for the kill."""
    real, moved = type(finished.path).rename, []

    def once(path, target):
        if moved:
            raise KeyboardInterrupt
        moved.append(path)
        return real(path, target)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(finished.path), "rename", once)
        finished.set_aside()
    shutil.rmtree(finished.final_model_dir, ignore_errors=True)
    where = standing(params_of(finished, training=RESUME), finished)
    assert where.step == 0 and "begins at step 1" in where.notices[0]


def test_a_final_model_is_written_whole_or_not_at_all(embedded_policy, tmp_path, monkeypatch, trained_run):
    policy, run = trained_run["policy"], RunDirectory(tmp_path)
    save_final_model(policy, run.final_model_dir, step=1)
    monkeypatch.setattr(policy.processor, "save_pretrained", lambda path: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        save_final_model(policy, run.final_model_dir, step=2)
    assert [path.name for path in tmp_path.iterdir()] == ["final_model"]
    assert read_seal(run.final_model_dir)["step"] == 1 and not flaw(run.final_model_dir)


@pytest.mark.parametrize("mode", [False, True])
def test_a_policy_that_has_learnt_does_not_begin_at_step_1(finished, params_of, trained_run, mode):
    """The cell that trains, run again in one kernel; and after an interruption before the first checkpoint."""
    if mode:
        shutil.rmtree(finished.final_model_dir)
        shutil.rmtree(finished.checkpoints_dir)
    before = contents(finished)
    params = params_of(finished, training={"resume": mode})
    with pytest.raises(TrainingError, match=r"has learnt already \(norm .*load it again first .*load_policy"):
        train(trained_run["policy"], load_problems(params.dataset), params, finished)
    assert contents(finished) == before


def test_what_moves_to_previous_is_announced(finished, params_of, capsys):
    go_on(finished, params_of(finished, training={"max_steps": 1}))
    said = capsys.readouterr().out
    assert f"Moved to {finished.path / 'previous' / '1'}: checkpoints," in said
    assert "final_model" in said and "samples.jsonl" in said


def test_weights_can_be_taken_from_a_checkpoint(finished, params_of):
    params = params_of(finished)
    policy = fresh_policy(params)
    load_weights(policy, finished.checkpoints_dir / "checkpoint-2")
    assert any(bool(p.any()) for name, p in policy.model.named_parameters() if "lora_B" in name)
