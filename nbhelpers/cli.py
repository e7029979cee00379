"""The command `nbhelpers`: the series, sweeps, reports, comparisons, the exported model, and what the machine is."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from nbhelpers import __version__


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = make_parser().parse_args(argv)
    from nbhelpers.runs import words_end_nothing

    words_end_nothing()
    try:
        return arguments.command(arguments)
    except KeyboardInterrupt:
        print("nbhelpers: interrupted; what was computed is in the run directory", file=sys.stderr)
        return 130
    except Exception as error:
        if not (said := _sentence(error)):
            raise
        print(f"nbhelpers: {said}", file=sys.stderr)
        return getattr(error, "exit_code", 1)


def _sentence(error: Exception) -> str | None:
    """What a person is told of an error; None for a fault of this program, which is shown as it is."""
    from nbhelpers.params import PlainError  # here, so that `--help` loads none of the wings

    if isinstance(error, PlainError):
        return str(error)
    from nbhelpers.training import disk_trouble

    if trouble := disk_trouble(error):
        return f"nothing could be written any more: {trouble}. Mend that first."
    if isinstance(error, OSError) and error.strerror:
        name = str(error.filename or "")
        return f"{name[:200]}{'…' * (len(name) > 200)}: {error.strerror}.".removeprefix(": ")
    return str(error) if isinstance(error, OSError) else None


def make_parser() -> argparse.ArgumentParser:
    """Everything that can be typed after `nbhelpers`."""
    parser = argparse.ArgumentParser(prog="nbhelpers", description="Vision GRPO in notebooks.")
    parser.add_argument("--version", action="version", version=f"nbhelpers {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    _add_run(commands)
    sweep = commands.add_parser("sweep", help="named overrides times seeds from one file, and one table over them")
    sweep.add_argument("file", type=Path, help="such as params/sweeps/controls.yaml")
    sweep.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time, each a process of its own")
    _add_settings(sweep)
    sweep.add_argument("--output-dir", help="default: outputs/<name of the file>")
    sweep.set_defaults(command=_sweep)

    evaluate = commands.add_parser(
        "evaluate", help="evaluate a run, repeat its evaluation from the record, or evaluate any model"
    )
    evaluate.add_argument("run_dir", type=Path, nargs="?", metavar="RUN")
    evaluate.add_argument("--checkpoint", metavar="STEP", help="of the run, instead of final_model/")
    evaluate.add_argument("--model", metavar="PATH_OR_HUB_ID", help="instead of a run, with --preset")
    evaluate.add_argument("--preset", help="whose problems and settings --model is asked with; default: smoke")
    _add_settings(evaluate)
    evaluate.add_argument("--output-dir", help="of --model; default: outputs/evaluations/<model>")
    evaluate.add_argument(
        "--export", choices=["vlmevalkit"], help="write the run's predictions as its table, and evaluate nothing"
    )
    evaluate.set_defaults(command=_evaluate)

    report = commands.add_parser("report", help="write report.html for a run directory")
    report.add_argument("run_dir", type=Path)
    report.set_defaults(command=_report)

    compare = commands.add_parser("compare", help="two or more runs: curves over one another, paired difference")
    compare.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN")
    compare.add_argument("--output", type=Path, help="default: comparison.html beside the first run")
    compare.set_defaults(command=_compare)

    export = commands.add_parser(
        "export", help="the trained model as one, without an adapter: merged in 16 bit, or GGUF for llama.cpp"
    )
    export.add_argument("run_dir", type=Path, metavar="RUN")
    export.add_argument("--gguf", metavar="METHOD", help="by Unsloth, on a GPU: q8_0, q4_k_m, bf16, ...")
    export.add_argument(
        "--output", type=Path, help="default: merged/ in the run directory; GGUF goes into merged_gguf/"
    )
    export.set_defaults(command=_export)

    doctor = commands.add_parser("doctor", help="what this machine has, what a preset needs, what is missing")
    doctor.add_argument("preset", nargs="?", default="smoke")
    doctor.add_argument(
        "--try-model", action="store_true", help="also load the model and let it answer 32 problems, before a long run"
    )
    _add_settings(doctor)
    doctor.set_defaults(command=_doctor)
    return parser


def _add_run(commands: argparse._SubParsersAction) -> None:
    run = commands.add_parser("run", help="execute the four notebooks in order with a preset")
    what = run.add_mutually_exclusive_group(required=True)
    presets = "smoke, gemma3_smoke, full, full_geometry3k, or a parameter file of your own"
    what.add_argument("preset", nargs="?", help=presets)
    again = "repeat the run of a manifest.json, and say where environment and result differ"
    what.add_argument("--from-manifest", type=Path, metavar="FILE", help=again)
    _add_settings(run)
    run.add_argument("--report-to", metavar="NAME", help="a logger: wandb, tensorboard, trackio; default: none")
    run.add_argument("--notebooks", metavar="3-4", help="only these")
    run.add_argument("--output-dir", help="default: outputs/<preset>")
    run.set_defaults(command=_run)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """What each command takes that starts from a preset or a parameter file; `_load` makes the parameters of it."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides", help="repeatable"
    )
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="let the parameter file bring code (module:function) and connections of its own",
    )


def _load(arguments: argparse.Namespace):
    """The checked parameters of a command with `_add_settings` and an argument `preset` (a name or a file), and the
    overrides alone, as `run_series` takes them. Stops with a sentence where a file would run code untrusted.
    """
    from nbhelpers.params import RunParams, parse_overrides

    settings = list(arguments.overrides)
    if getattr(arguments, "report_to", None) is not None:
        settings.append(f"training.grpo.report_to={arguments.report_to}")
    overrides = parse_overrides(settings)
    output_dir = getattr(arguments, "output_dir", None)
    trusted = {"source": "--set", "trust_code": arguments.trust_code}
    return RunParams.load(arguments.preset, output_dir=output_dir, **trusted, **overrides), overrides


def _run(arguments: argparse.Namespace) -> int:
    from nbhelpers.doctor import refuse_what_cannot_run
    from nbhelpers.repeating import file_of_manifest, report_differences
    from nbhelpers.runs import RunDirectory
    from nbhelpers.series import run_series, select_notebooks
    from nbhelpers.show import write_report

    if repeated := arguments.from_manifest:
        arguments.preset = str(file_of_manifest(repeated, arguments.output_dir))
    params, overrides = _load(arguments)
    notebooks = select_notebooks(arguments.notebooks)
    refuse_what_cannot_run(params)
    started = time.perf_counter()
    run_series(params, overrides=overrides, notebooks=notebooks, echo=lambda line: print(line, flush=True))
    report = write_report(params.output_dir)
    if repeated:
        print(report_differences(repeated, RunDirectory(params.output_dir)))
    print(f"{len(notebooks)} notebooks in {time.perf_counter() - started:.0f} s; read {report}")
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    from nbhelpers.doctor import refuse_what_cannot_run
    from nbhelpers.params import ParamsError, parse_overrides
    from nbhelpers.sweep import load_sweep, run_sweep

    if arguments.jobs < 1:
        raise ParamsError(f"--jobs {arguments.jobs}: expected a whole number of at least 1")
    overrides = parse_overrides(arguments.overrides)
    trust, output_dir = arguments.trust_code, arguments.output_dir
    runs = load_sweep(arguments.file, output_dir=output_dir, overrides=overrides, trust_code=trust)
    refuse_what_cannot_run(runs[0].params)
    path = run_sweep(runs, jobs=arguments.jobs, echo=lambda line: print(line, flush=True))
    print(path.read_text(encoding="utf-8"), path, sep="\n")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    _refuse_what_does_not_go_together(arguments)
    if arguments.export:
        from nbhelpers.evaluation import export_vlmevalkit

        print(*export_vlmevalkit(arguments.run_dir), sep="\n")
    else:
        print(_evaluate_run(arguments) if arguments.model is None else _evaluate_model(arguments))
    return 0


def _refuse_what_does_not_go_together(arguments: argparse.Namespace) -> None:
    from nbhelpers.params import ParamsError

    of_model = {"--preset": arguments.preset, "--set": arguments.overrides, "--output-dir": arguments.output_dir}
    given = [option for option, value in of_model.items() if value not in (None, [])]
    if (arguments.run_dir is None) == (arguments.model is None):
        raise ParamsError("evaluate takes a run directory or --model PATH_OR_HUB_ID, one of the two")
    if arguments.model is not None and (arguments.checkpoint or arguments.export):
        raise ParamsError("--checkpoint and --export are of a run: give its directory instead of --model")
    if arguments.model is None and given:
        raise ParamsError(f"a run is evaluated with its own settings, in its own place: {given[0]} goes with --model")
    if arguments.export and arguments.checkpoint:
        raise ParamsError(
            "--export writes what was answered already. Of a checkpoint: nbhelpers evaluate RUN --checkpoint STEP, "
            "then nbhelpers evaluate RUN/evaluations/checkpoint-STEP --export vlmevalkit"
        )


def _evaluate_model(arguments: argparse.Namespace):
    from nbhelpers.doctor import refuse_what_cannot_run

    arguments.preset = "smoke" if arguments.preset is None else arguments.preset
    name = f"{Path(arguments.model).name}-{Path(arguments.preset).stem}"
    arguments.output_dir = arguments.output_dir or Path("outputs", "evaluations", name)
    params, _ = _load(arguments)
    model = params.model.model_copy(update={"name": arguments.model})
    refuse_what_cannot_run(params.model_copy(update={"model": model}), trains=False)
    from nbhelpers.evaluation import evaluate_model
    from nbhelpers.show import evaluation_progress

    return evaluate_model(arguments.model, params, progress=evaluation_progress())


def _evaluate_run(arguments: argparse.Namespace):
    from nbhelpers.doctor import refuse_what_cannot_run
    from nbhelpers.evaluation import EvaluationError, evaluate_run
    from nbhelpers.runs import RunDirectory
    from nbhelpers.show import evaluation_progress
    from nbhelpers.training import is_trained

    run = RunDirectory(arguments.run_dir)
    params = run.recorded_params()
    refuse_what_cannot_run(params, trains=False)
    if not arguments.checkpoint and not is_trained(params, run):
        raise EvaluationError(f"{run.path} has no trained adapter yet: nbhelpers run {run.params_path} trains one.")
    return evaluate_run(arguments.run_dir, checkpoint=arguments.checkpoint, progress=evaluation_progress())


def _report(arguments: argparse.Namespace) -> int:
    from nbhelpers.show import write_report

    print(write_report(arguments.run_dir))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from nbhelpers.show import compare_runs

    print(compare_runs(arguments.run_dirs, output=arguments.output))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from nbhelpers.policy import export_final_model
    from nbhelpers.runs import RunDirectory

    run = RunDirectory(arguments.run_dir)
    params = run.recorded_params()
    output = arguments.output or run.path / "merged"
    print(export_final_model(run.final_model_dir, params.model, output, gguf=arguments.gguf))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from nbhelpers.doctor import diagnose

    params, _ = _load(arguments)
    diagnosis = diagnose(params)
    print(diagnosis)
    if not (arguments.try_model and diagnosis.can_run):
        return 0 if diagnosis.can_run else 1
    from nbhelpers.evaluation import try_model

    trial = try_model(params)
    print(trial)
    return 1 if trial.doubts else 0


if __name__ == "__main__":
    raise SystemExit(main())
