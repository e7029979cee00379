"""An evaluation repeats itself from its record, goes on where it was killed, and says what it costs and leaves out."""

from __future__ import annotations

import csv
import errno
import json
import shutil
import signal

import pytest

from nbhelpers import cli
from nbhelpers.evaluation import answering, exporting, protocol
from nbhelpers.evaluation.evaluating import evaluate
from nbhelpers.evaluation.repeating import evaluate_model, evaluate_run
from nbhelpers.params.run_params import RunParams
from nbhelpers.policy.loading import load_policy
from nbhelpers.policy.policy import PolicyError
from nbhelpers.problems import loading
from nbhelpers.runs.directory import RunDirectory

FILES = ("predictions.jsonl", "pass_at_k.jsonl", "plain_prompt.jsonl", "evaluation.json")


@pytest.fixture(scope="module")
def small(tiny_params, tmp_path_factory):
    """`small(name)`: params and run of an evaluation of 10 problems, 3 of them sampled, in batches of 4."""
    folder = tmp_path_factory.mktemp("evaluations")
    settings = {"num_samples": 10, "pass_k": 2, "pass_problems": 3, "plain_problems": 5}

    def make(name, **sections):
        given = {"evaluation": settings, "training": {"max_completion_length": 12}, "dataset": {"max_samples": 24}}
        given |= {section: given.get(section, {}) | own for section, own in sections.items()}
        params = tiny_params(folder / name, **given)
        return params, RunDirectory(params.output_dir)

    return make


@pytest.fixture(autouse=True)
def batches_of_four(monkeypatch):
    monkeypatch.setattr(answering, "BATCH", 4)


@pytest.fixture(scope="module")
def policy(tiny_params):
    from tiny_policy import randomise_adapter

    params = RunParams.load("smoke")
    policy = load_policy(params.model, params.lora)
    randomise_adapter(policy)
    return policy


def run_it(policy, small, name, progress=None, **sections):
    params, run = small(name, **sections)
    return evaluate(policy, loading.load_problems(params.dataset), params, run, progress=progress), run


@pytest.fixture(scope="module")
def whole(policy, small):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answering, "BATCH", 4)
        return run_it(policy, small, "whole")


def stop_at(name, done):
    def progress(at, finished, total):
        if (at, finished) == (name, done):
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("happens", ["SIGTERM", "a full disk"])
def test_an_evaluation_that_ends_early_says_what_is_kept(policy, small, happens):
    def progress(at, finished, total):
        if happens == "SIGTERM":
            signal.raise_signal(signal.SIGTERM)
        raise OSError(errno.ENOSPC, "No space left on device")

    handler = signal.getsignal(signal.SIGTERM)
    expected = protocol.EvaluationStopped if happens == "SIGTERM" else protocol.EvaluationError
    with pytest.raises(expected, match=r"Evaluation (was interrupted|.*No space left).*the same command goes on"):
        run_it(policy, small, happens.replace(" ", "-"), progress=progress)
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize("where", [("before", 8), ("before, sampled", 3), ("plain prompt", 4), ("after", 4)])
def test_a_killed_evaluation_goes_on_and_ends_in_the_same_bytes(policy, small, whole, where, capsys):
    name = "-".join(map(str, where))
    with pytest.raises(protocol.EvaluationStopped):
        run_it(policy, small, name, progress=stop_at(*where))
    _, run = small(name)
    assert run.evaluating_path.is_file() and not run.evaluation_path.exists()
    rows = len(run.read_jsonl(run.predictions_path))
    with open(run.predictions_path, "ab") as file:  # of the next batch a row and a half was written
        file.write(run.predictions_path.read_bytes().splitlines(keepends=True)[-1] + b'{"phase": "aft')
    asked = []
    _, run = run_it(policy, small, name, progress=lambda at, done, total: asked.append(at))
    assert "it goes on" in capsys.readouterr().out
    assert len(asked) < 3 + 1 + 2 + 3 + 1 and rows < 20
    for file in FILES:
        assert (run.path / file).read_bytes() == (whole[1].path / file).read_bytes(), file
    assert not run.evaluating_path.exists() and not (run.path / "previous").exists()


def test_another_policy_does_not_go_on_with_the_answers_of_the_first(policy, small, embedded_policy, capsys):
    with pytest.raises(protocol.EvaluationStopped):
        run_it(policy, small, "other", progress=stop_at("before", 4))
    params, run = small("other")
    fresh = load_policy(params.model, params.lora)
    evaluate(fresh, loading.load_problems(params.dataset), params, run)
    assert "it goes on" not in capsys.readouterr().out
    assert (run.path / "previous" / "1" / "predictions.jsonl").is_file()


def test_the_record_names_all_that_an_evaluation_depends_on(whole):
    result, run = whole
    record = result["conditions"]
    assert len(record["problems"]) == 10 and len(set(record["problems"].values())) == 10
    assert record["grader"]["version"] == result["grader"] and record["decoding"]["problems_per_batch"] == 4
    assert record["prompts"]["plain"].count("Answer the question.") == 1
    assert "<REASONING>" in record["prompts"]["training"] and "<REASONING>" not in record["prompts"]["plain"]
    assert record["model"]["base"] and record["model"]["adapter"] and record["versions"]["torch"]
    assert [one["name"] for one in record["passes"]] == [
        "before", "before, sampled", "plain prompt", "after", "after, sampled",
    ]  # fmt: skip
    assert json.loads(run.evaluation_path.read_text())["conditions"] == record


def test_differences_of_two_records_are_sentences(whole):
    record = whole[0]["conditions"]
    assert protocol.differences(record, record) == []
    other = json.loads(json.dumps(record))
    other["versions"]["torch"], pid = "9.9", next(iter(other["problems"]))
    other["problems"][pid] = "another"
    other["problems"].pop(list(other["problems"])[-1])
    said = " ".join(protocol.differences(record, other))
    assert 'versions.torch: "' in said and '"9.9" now' in said
    assert "1 of 10 are gone" in said and f"1 are not as they were, such as {pid}" in said


def test_whether_vllm_computed_each_text_alone_is_part_of_the_record(policy, small, monkeypatch):
    params, _ = small("invariant")
    problems, found = loading.load_problems(params.dataset), []
    for value in ("0", "1"):
        monkeypatch.setenv("VLLM_BATCH_INVARIANT", value)
        found.append(protocol.conditions(policy, problems, problems.evaluation.select([0]), params, []))
    assert protocol.differences(*found) == ["decoding.batch_invariant: false then, true now."]


def test_a_problem_that_is_asked_or_graded_otherwise_has_another_digest(small):
    params, _ = small("digest")
    row = dict(loading.load_problems(params.dataset).evaluation[0])
    digest = protocol.problem_digest(row, params)
    assert digest == protocol.problem_digest(dict(row), params)
    for change in ({"answer": "another"}, {"question": "Another?"}, {"unit": "cm"}, {"image": row["image"].rotate(90)}):
        assert protocol.problem_digest(row | change, params) != digest


def test_overlong_prompts_are_left_out_and_counted(policy, small):
    params, run = small("overlong", dataset={"max_samples": 40}, evaluation={"pass_k": None, "plain_problems": 0})
    problems = loading.load_problems(params.dataset)
    rows = [dict(row) for row in problems.evaluation]
    rows[1] |= {"question": "How many discs are there? " * 4000}
    problems = loading.ProblemSets(problems.train, loading._dataset(rows), {}, "x", "embedded")
    result = evaluate(policy, problems, params, run)
    assert result["left_out"]["overlong"] == 1 and result["left_out"]["pids"] == [rows[1]["pid"]]
    assert result["after"]["n"] == 9 and rows[1]["pid"] not in {r["pid"] for r in run.read_jsonl(run.predictions_path)}
    assert "1 of 10 evaluation problems were left out" in run.read_manifest()["warnings"][0]


def test_where_no_prompt_fits_a_sentence_says_what_to_set(policy, small):
    params, run = small("none", model={"max_seq_length": 64}, training={"max_completion_length": 40})
    with pytest.raises(protocol.EvaluationError, match="there is room for 24"):
        evaluate(policy, loading.load_problems(params.dataset), params, run)


def test_the_cost_is_said_before_the_first_answer(policy, small, capsys):
    def progress(*_):
        raise KeyboardInterrupt

    with pytest.raises(protocol.EvaluationStopped):
        run_it(policy, small, "cost", progress=progress, training={"max_completion_length": 24})
    out = capsys.readouterr().out
    assert "37 completions of at most 24 tokens: about" in out  # 2 x 10, 2 x 3 x 2 and 5


def copied(trained_run, folder):
    """The run of a session, as nobody has evaluated it, with nothing sampled."""
    run = RunDirectory(shutil.copytree(trained_run["run"].path, folder / "run"))
    for path in (*run.evaluation_files, run.path / "evaluations"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    quick = run.params_path.read_text().replace("pass_k: 8", "pass_k: null")
    run.write_text(run.params_path, quick.replace("plain_problems: 128", "plain_problems: 4"))
    return run


def test_an_evaluation_is_repeated_from_its_own_record(trained_run, tmp_path):
    run = copied(trained_run, tmp_path)
    first = evaluate_run(run.path)
    assert first.run.path == run.path and first.differences == []
    again = evaluate_run(run.path)
    assert again.run.path == run.path / "evaluations" / "repeat"
    assert again.differences == [
        "Everything that its record names is as it was.",
        "predictions.jsonl, plain_prompt.jsonl are the same, byte for byte.",
    ]
    rows = run.read_jsonl(run.predictions_path)
    rows[0] |= {"completion": "something else", "correct": not rows[0]["correct"]}
    rows[1] |= {"completion": "something else"}
    run.write_jsonl(run.predictions_path, rows)
    right = sum(row["correct"] for row in rows)
    now = right - 1 if rows[0]["correct"] else right + 1
    assert evaluate_run(run.path).differences[1:] == [
        "plain_prompt.jsonl is the same, byte for byte.",
        "predictions.jsonl: of 32 answers 2 have another text and 1 another verdict; "
        f"{right} were right then, {now} are now.",
    ]


def test_a_checkpoint_is_evaluated_beside_the_run(trained_run, tmp_path):
    run = copied(trained_run, tmp_path)
    found = evaluate_run(run.path, checkpoint="2")
    assert found.run.path == run.path / "evaluations" / "checkpoint-2" and found.run.evaluation_path.is_file()
    assert not run.evaluation_path.exists()
    with pytest.raises(
        protocol.EvaluationError,
        match="no checkpoint '7'; there are checkpoint-2, checkpoint-3; did you mean checkpoint-[23][?]$",
    ):
        evaluate_run(run.path, checkpoint="7")


def test_a_model_without_an_adapter_is_evaluated_as_it_is(small):
    params, run = small("model", evaluation={"pass_k": None})
    found = evaluate_model("embedded", params)
    result = found.result
    assert "before" not in result and result["after"]["n"] == 10
    assert set(result["anywhere"]) == {"training_prompt", "plain_prompt"}
    assert "under a plain prompt" in str(found) and "of the base model" in str(found)
    assert (
        evaluate_model("embedded", params).differences[-1]
        == "predictions.jsonl, plain_prompt.jsonl are the same, byte for byte."
    )


def test_the_model_is_loaded_at_its_commit(monkeypatch):
    import transformers

    asked = []

    def from_pretrained(source, **options):
        asked.append(options["revision"])
        raise OSError("not here")

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", from_pretrained)
    for revision in ("b2" * 20, None):
        with pytest.raises(PolicyError):
            load_policy(RunParams.load("smoke", model={"name": "some/model", "revision": revision}).model)
    assert asked == ["b2" * 20, "main"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "one of the two"),
        (["RUN", "--model", "x"], "one of the two"),
        (["--model", "x", "--export", "vlmevalkit"], "are of a run"),
        (["RUN", "--set", "evaluation.pass_k=2"], "its own settings"),
        (["RUN", "--preset", "full"], "--preset goes with --model"),
        (["RUN", "--output-dir", "elsewhere"], "--output-dir goes with --model"),
        (["RUN", "--checkpoint", "2", "--export", "vlmevalkit"], "what was answered already"),
        (["RUN"], "no run directory"),
    ],
)
def test_the_command_says_what_it_takes(given, said, tmp_path, capsys):
    given = [str(tmp_path) if word == "RUN" else word for word in given]
    assert cli.main(["evaluate", *given]) == 1
    assert said in capsys.readouterr().err


def test_predictions_become_the_table_of_vlmevalkit(whole, small):
    _, run = whole
    rows = run.read_jsonl(run.predictions_path)
    rows[0] |= {"completion": 'a\tb\n"c" \ud83d', "choices": ["x", "it's"], "answer": "it's"}
    rows[1] |= {"completion": "a\rb"}
    other = RunDirectory(run.path.parent / "exported")
    other.write_jsonl(other.predictions_path, rows)
    with pytest.raises(protocol.EvaluationError, match="not finished"):
        exporting.export_vlmevalkit(other.path)
    shutil.copy(run.evaluation_path, other.path)
    before, after = exporting.export_vlmevalkit(other.path)
    assert (before.name, after.name) == ("exported-before_MathVista_MINI.tsv", "exported_MathVista_MINI.tsv")
    with open(before, encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file, delimiter="\t"))
    assert len(table) == 10 and list(table[0]) == list(exporting.COLUMNS)
    assert table[0]["prediction"] == 'a\tb\n"c" ?' and table[0]["answer_option"] == "B"
    assert table[0]["choices"] == repr(["x", "it's"]) and table[1]["prediction"] == "a\rb"
    with pytest.raises(protocol.EvaluationError, match="no predictions yet"):
        exporting.export_vlmevalkit(run.path.parent / "nothing")
