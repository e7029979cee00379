"""What this machine has, what a preset needs, and the line that installs or sets what is missing.

Nothing heavy is imported: versions are read from the packages' metadata, the GPU from `nvidia-smi`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nbhelpers.params import PlainError, RunParams, did_you_mean, is_hub_id, places_of, resolve_path
from nbhelpers.policy import (
    GIB,
    better_backend,
    flaw_of_checkpoint,
    libraries,
    memory_estimate,
    needs_gpu,
    parameter_count,
    ways_to_fit,
)
from nbhelpers.problems import DataError, local_source
from nbhelpers.runs import Gpu, compare_library, fields_of, find_gpus, find_links, installed_version

# What transformers 5.17 reports to, by the names of their modules.
LOGGERS = ("wandb", "tensorboard", "trackio", "mlflow", "comet_ml", "clearml", "swanlab", "neptune", "dvclive")
# GRPOConfig and what it inherits from (TRL 1.14.2): library, module, class.
GRPO_CONFIG = (
    ("trl", "trainer.grpo_config", "GRPOConfig"),
    ("trl", "trainer.base_config", "_BaseConfig"),
    ("transformers", "training_args", "TrainingArguments"),
)


class NotReadyError(PlainError, RuntimeError):
    """A preset cannot run on this machine; the message says what is missing and what to do."""


def refuse_what_cannot_run(params: RunParams, *, trains: bool = True, gpus: Sequence[Gpu] | None = None) -> None:
    """What `diagnose` would find missing, before anything is loaded, moved or overwritten; it takes about a second.

    Any command that is about to work for long calls this with its checked parameters first; one that does not train
    says so, as rewards and loggers are nothing to it.

    Raises:
        NotReadyError: names everything that is missing.
    """
    found = _what_stops(params, find_gpus() if gpus is None else gpus, trains)
    missing = [check for check in found if check.ok is False and check.name != "driver"]
    if gpus is None and Path("/dev/nvidiactl").exists():  # a GPU without its nvidia-smi
        missing = [check for check in missing if check.name != "GPU"]
    if missing:
        said = [f"{check.name}: {check.found.rstrip('.')}. {check.remedy}".strip() for check in missing]
        raise NotReadyError(" ".join([f"{params.preset} cannot run here.", *said]))


def _what_stops(params: RunParams, gpus: Sequence[Gpu], trains: bool = True) -> list[Check]:
    """What no run can do without. Versions that differ and memory that is estimated do not stop a person who knows."""
    needs = list(needs_gpu(params.model, params.model.backend))
    places = [_model_check(params), *_data_checks(params), _output_check(params), _disk_check(params)]
    if trains:
        places += [*_logger_checks(params), *_reward_checks(params), *_field_checks(params, gpus)]
    return [*_gpu_checks(params, gpus, needs), *places]


@dataclass(frozen=True)
class Check:
    """One thing looked at; `ok` is None where nothing is right or wrong, `remedy` is what to run or set."""

    name: str
    ok: bool | None
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All checks for one preset. `can_run` says whether the preset can run here."""

    preset: str
    checks: tuple[Check, ...]

    @property
    def can_run(self) -> bool:
        return all(check.ok is not False for check in self.checks)

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        marks = {True: "ok", False: "MISSING", None: ""}
        lines = [f"{check.name:<{width}}  {marks[check.ok]:<7}  {check.found}" for check in self.checks]
        remedies = list(dict.fromkeys(check.remedy for check in self.checks if check.remedy))
        if remedies:
            lines += ["", "To do:", *(f"  {remedy}" for remedy in remedies)]
        can = "can run on this machine." if self.can_run else "cannot run on this machine as it is."
        return "\n".join([*lines, "", f"{self.preset} {can}"])


def diagnose(
    params: RunParams,
    *,
    gpus: Sequence[Gpu] | None = None,
    links: Sequence[str] | None = None,
    installed: Callable[[str], str | None] = installed_version,
) -> Diagnosis:
    """Look at this machine with the eyes of one preset.

    Args:
        gpus, links: the machine's GPUs, and how each pair is linked; None asks `nvidia-smi`.
        installed: a package's version by its name, None where it is not installed.
    """
    gpus = find_gpus() if gpus is None else gpus
    needs = list(needs_gpu(params.model, params.model.backend))
    checks = [Check("Python", None, platform.python_version()), *_what_stops(params, gpus)]
    extras = {"gpu"} if gpus and (needs or installed("vllm")) else {"cpu"}
    checks += _version_checks(requirements(), extras, installed)
    backend = params.model.backend
    if backend == "auto":
        both = gpus and installed("unsloth")
        backend = better_backend(params.model, params.training, gpus[0]) if both else "transformers"
    checks += _touched_checks(params, backend)
    checks += _bytecode_checks(["torch", "transformers", "trl", *libraries(params.model, backend)])
    if needs and gpus:
        checks += _together(params, gpus, find_links() if links is None else links)
        training = _taken(params, _that_train(params, gpus)) or gpus
        checks.append(_memory_check(params, min(training, key=lambda gpu: gpu.free), backend))
    return Diagnosis(params.preset, tuple(checks))


def _gpu_checks(params: RunParams, gpus: Sequence[Gpu], needs: list[str]) -> list[Check]:
    if not gpus:
        if not needs:
            return [Check("GPU", None, "none, and this preset needs none")]
        remedy = f"Run {params.preset} on a machine with an NVIDIA GPU; `nbhelpers run smoke` needs none."
        return [Check("GPU", False, f"nvidia-smi shows none, and {', '.join(needs)} needs one", remedy)]
    checks = []
    for gpu in gpus:
        found = f"{gpu.name}, {gpu.free:.1f} of {gpu.total:.1f} GiB free, driver {gpu.driver}"
        old = bool(needs) and gpu.capability is not None and gpu.capability < (8, 0)
        remedy = "Use a GPU of compute capability 8.0 or more (A100, RTX 30xx or later): Gemma-3 overflows in float16."
        checks.append(Check("GPU", not old if needs else None, found, remedy if old else ""))
    major = gpus[0].driver.partition(".")[0]
    if needs and not (major.isdigit() and int(major) >= 580):
        remedy = "Update the NVIDIA driver to 580 or later, which the CUDA 13.0 build of torch 2.11.0 asks for."
        checks.append(Check("driver", False, f"{gpus[0].driver}; torch 2.11.0+cu130 asks for 580 or later", remedy))
    return checks


def _that_train(params: RunParams, gpus: Sequence[Gpu]) -> Sequence[Gpu]:
    """All but the last one where that serves."""
    return gpus[:-1] if params.model.starts_server else gpus


def _taken(params: RunParams, gpus: Sequence[Gpu]) -> Sequence[Gpu]:
    """The GPUs that `training.num_processes` takes, `auto` as many as can share a step."""
    asked = params.training.num_processes
    return gpus[: asked if asked != "auto" else max(params.training.processes_that_share(len(gpus)))]


def _together(params: RunParams, gpus: Sequence[Gpu], links: Sequence[str]) -> list[Check]:
    """How many of several GPUs the preset takes, whether a step can be shared so, and how they are linked."""
    asked, serves, gpus = params.training.num_processes, params.model.starts_server, _that_train(params, gpus)
    if not gpus:
        remedy = "Leave model.vllm_server out, or take two GPUs."
        return [Check("vLLM server", False, "the only GPU would serve, and none train", remedy)]
    if len(gpus) == 1 and asked == 1 and not serves:
        return []
    fitting = params.training.processes_that_share(len(gpus))
    most = max(fitting)
    remedy = (
        "" if asked not in (1, "auto") or len(gpus) == 1 else "--set training.num_processes=auto takes all of them."
    )
    there = f"{len(gpus)}{' beside the one that serves' * serves}"
    found = f"{there}; training.num_processes={asked} takes {len(_taken(params, gpus))}"
    if asked != "auto" and asked not in fitting:
        named = ", ".join(map(str, fitting))
        checks = [Check("processes", False, found, f"--set training.num_processes={most} (allowed here: {named}).")]
    else:
        checks = [Check("processes", True, found, remedy if asked == 1 and most > 1 else "")]
    if links:
        over_bus = [link for link in links if not link.startswith("NV")]
        said = f"{', '.join(sorted(set(links)))} between {len(links)} pairs of GPUs"
        slow = "; not all have NVLink, and the adapter's gradient, 0.1 GB for 4B, goes over PCIe" if over_bus else ""
        checks.append(Check("links", None, said + slow))
    return checks


def requirements() -> list[str]:
    """The tested set, as `name==version; extra == "gpu"` lines of the installed package."""
    return importlib.metadata.requires("nbhelpers") or []


def _version_checks(lines: Iterable[str], extras: set[str], installed: Callable[[str], str | None]) -> list[Check]:
    """One check for each pinned package, and for an unpinned one where it is missing."""
    from packaging.requirements import Requirement

    checks = []
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        version = installed(requirement.name)
        wanted = f"{requirement.name}{requirement.specifier}"
        if version is None:
            found = f"not installed; the tested set has {requirement.specifier or 'any version'}"
            checks.append(Check(requirement.name, False, found, f"pip install '{wanted}'"))
        elif requirement.specifier:
            fits = requirement.specifier.contains(version.partition("+")[0], prereleases=True)
            found = version if fits else f"{version}; the tested set has {requirement.specifier}"
            checks.append(Check(requirement.name, fits, found, "" if fits else f"pip install '{wanted}'"))
    return checks


def _touched_checks(params: RunParams, backend: str) -> list[Check]:
    """One check for each installed library whose private names this preset touches."""
    checks = []
    for finding in map(compare_library, ["trl", *libraries(params.model, backend)]):
        if finding.installed:
            remedy = finding.remedy if finding.differing else ""
            checks.append(Check(f"inside {finding.library}", not finding.differing, str(finding), remedy))
    return checks


def _bytecode_checks(names: Iterable[str]) -> list[Check]:
    """Whether each process compiles the libraries' sources anew, which takes about 20 s of a run on a GPU (2026-11-24,
    32 cores), and notebooks 02, 03 and 04 are a process each.
    """
    if not sys.dont_write_bytecode:
        return []
    origins = {name: origin for name in dict.fromkeys(names) if (origin := _origin(name.replace("-", "_")))}
    bare = [name for name, origin in origins.items() if not Path(importlib.util.cache_from_source(origin)).exists()]
    if not bare:
        return []
    folder = Path(origins[bare[0]]).parent.parent
    found = f"PYTHONDONTWRITEBYTECODE is set and {', '.join(bare)} came without: every process compiles them again"
    remedy = f"env -u PYTHONDONTWRITEBYTECODE python -m compileall -q -j 0 {folder}   (spares about 20 s a notebook)"
    return [Check("bytecode", None, found, remedy)]


def _origin(name: str) -> str | None:
    """The file of a package that is not imported for this."""
    spec = importlib.util.find_spec(name)
    return spec.origin if spec and spec.has_location else None


def _model_check(params: RunParams) -> Check:
    name, folder = params.model.name, resolve_path(params.model.name)
    if name == "embedded":
        return Check("model", True, "embedded: ships with the package")
    if folder is not None:
        flaw = flaw_of_checkpoint(folder)
        remedy = "" if flaw is None else "Point model.name at a folder with config.json and *.safetensors."
        return Check("model", flaw is None, flaw or str(folder), remedy)
    if not is_hub_id(name):
        hint = did_you_mean(name, ["embedded"]) or "."
        remedy = f"model.name is `embedded`, a folder with a model, or a hub id such as unsloth/gemma-3-4b-it{hint}"
        return Check("model", False, f"there is no folder {name!r}; {places_of(name)}", remedy)
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    cached = (hub / f"models--{name.replace('/', '--')}").is_dir()
    where = "in the hub cache" if cached else f"will be downloaded into {hub} at the first run"
    return Check("model", None, f"{name}: {where}")


def _data_checks(params: RunParams) -> list[Check]:
    checks = []
    for key, path in (("dataset.path", params.dataset.path), ("dataset.eval_path", params.dataset.eval_path)):
        if path is None or path == "embedded":
            continue
        try:
            found = local_source(path, key)
        except DataError as error:
            checks.append(Check("data", False, str(error)))
            continue
        offline = found is None and os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        checks.append(Check("data", None, str(found or f"{path}, from the hub{' (offline: its cache)' * offline}")))
    return checks


def _output_check(params: RunParams) -> Check:
    place = _existing(params.output_dir)
    if not place.is_dir():
        return Check("output", False, f"{place} is a file", "Give --output-dir a folder that is there or can be made.")
    if not os.access(place, os.W_OK | os.X_OK):
        return Check("output", False, f"nothing may be written in {place}", "Give another --output-dir.")
    return Check("output", True, str(params.output_dir))


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists() or place.is_symlink())


def _logger_checks(params: RunParams) -> list[Check]:
    asked = params.training.grpo.get("report_to") or []
    names = [asked] if isinstance(asked, str) else asked
    checks = []
    for name in dict.fromkeys(map(str, names)):
        if name in LOGGERS:
            there = importlib.util.find_spec(name) is not None
            remedy = "" if there else f"pip install {name}, or leave out --report-to {name}."
            checks.append(Check("logger", there, name if there else f"{name} is not installed", remedy))
        elif name not in ("none", "all"):  # nobody is told to install a name that was misspelt
            known = f"transformers reports to {', '.join(LOGGERS)}{did_you_mean(name, LOGGERS) or '.'}"
            checks.append(Check("logger", False, f"there is no logger {name!r}", known))
    return checks


def _reward_checks(params: RunParams) -> list[Check]:
    """Whether the modules of the person's own rewards can be found; they are not imported here."""
    modules = {name.partition(".")[0]: name for name in params.reward.functions if ":" in name}
    missing = [name for module, name in modules.items() if not _is_found(module.partition(":")[0])]
    where = f"Start where its module lies ({Path.cwd()} was searched), or put its folder on PYTHONPATH."
    return [Check("reward", False, f"the module of {name} is not found", where) for name in missing]


def _is_found(module: str) -> bool:
    beside = [Path.cwd() / module, Path.cwd() / f"{module}.py"]  # where the notebooks' kernels and processes look first
    return (
        module in sys.modules or any(place.exists() for place in beside) or importlib.util.find_spec(module) is not None
    )


def _field_checks(params: RunParams, gpus: Sequence[Gpu]) -> list[Check]:
    """Whether GRPOConfig has the fields that `training.grpo` names; Unsloth, once imported, adds its own."""
    given = set(params.training.grpo) - set(type(params.training)().grpo)
    if not given or params.model.backend == "unsloth" or gpus and installed_version("unsloth"):
        return []
    known = [name for place in GRPO_CONFIG for name in fields_of(*place)]
    unknown = sorted(given - set(known)) if known else []
    said = "training.grpo names {!r}, which is no field of TRL's GRPOConfig"
    return [Check("training", False, said.format(name), did_you_mean(name, known)[2:].capitalize()) for name in unknown]


def _memory_check(params: RunParams, gpu: Gpu, backend: str) -> Check:
    parts, share = memory_estimate(params, gpu, backend), params.model.gpu_memory_utilization
    if parts is None:
        return Check("GPU memory", None, f"{params.model.name} is of unknown size, so there is no estimate")
    needed = sum(parts.values())
    largest = sorted((part for part in parts.items() if part[1] >= 0.05), key=lambda part: -part[1])
    listed = ", ".join(f"{name} {value:.1f}" for name, value in largest)
    found = f"per GPU: estimated {needed:.1f} of {gpu.free:.1f} GiB free with backend {backend} ({listed})"
    if needed <= gpu.free * (0.95 if share == "auto" else 1) + 0.01:
        return Check("GPU memory", True, found)
    lower = 0.0 if share == "auto" else share - (needed - gpu.free + 1) / gpu.total
    ways = ways_to_fit(params.model, params.training, lower, recomputes=bool(params.model.use_gradient_checkpointing))
    return Check("GPU memory", False, found, "To fit: " + ", or ".join(f"--set {way}" for way in ways))


def _disk_check(params: RunParams) -> Check:
    folder = _existing(params.output_dir)
    free = shutil.disk_usage(folder).free / GIB
    size = parameter_count(params.model.name)
    local = params.model.name == "embedded" or resolve_path(params.model.name)
    needed = 1.0 + (0 if size is None or local else sum(size) * 2e9 / GIB)
    enough = free > needed
    remedy = "" if enough else f"Free {needed - free:.0f} GiB, or set output_dir (and HF_HOME) on another disk."
    return Check("disk", enough, f"{free:.0f} GiB free at {folder}", remedy)
