"""The doctor names what is missing and what to type; tried on machines that are not there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nbhelpers import doctor
from nbhelpers.doctor import GRPO_CONFIG, LOGGERS, diagnose
from nbhelpers.params.run_params import RunParams
from nbhelpers.policy import memory
from nbhelpers.policy.memory import (
    TextShape,
    better_backend,
    budget,
    give_vllm_its_share,
    kept_activations,
    memory_estimate,
    parameter_count,
)
from nbhelpers.policy.policy import PolicyError
from nbhelpers.runs import machine
from nbhelpers.runs.machine import Gpu
from nbhelpers.runs.tested import fields_of

H200 = Gpu("NVIDIA H200", "580.159.04", 139.8, 139.0, (9, 0))
CARD_24 = Gpu("NVIDIA RTX 4090", "580.95.05", 24.0, 23.5, (8, 9))


def pinned(extra):
    """Each package in the version of the tested set, as `installed`."""
    from packaging.requirements import Requirement

    versions = {}
    for line in doctor.requirements():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            versions[requirement.name] = next(
                (p.version for p in requirement.specifier if p.operator in ("==", ">=")), "1.0"
            )
    return versions


def check(diagnosis, name):
    return next(check for check in diagnosis.checks if check.name == name)


def test_smoke_runs_on_a_machine_without_a_gpu():
    diagnosis = diagnose(RunParams.load("smoke"), gpus=[], installed=pinned("cpu").get)
    assert diagnosis.can_run, str(diagnosis)
    assert "can run on this machine" in str(diagnosis) and "To do" not in str(diagnosis)


def test_a_gpu_preset_without_a_gpu_says_so_in_a_sentence():
    diagnosis = diagnose(RunParams.load("gemma3_smoke"), gpus=[], installed=pinned("cpu").get)
    assert not diagnosis.can_run
    assert "fast_inference" in check(diagnosis, "GPU").found and "nbhelpers run smoke" in str(diagnosis)


def test_the_tested_set_on_a_large_gpu_is_all_right():
    diagnosis = diagnose(RunParams.load("gemma3_smoke"), gpus=[H200], installed=pinned("gpu").get)
    assert diagnosis.can_run, str(diagnosis)


def test_each_missing_or_other_version_comes_with_its_line():
    versions = {**pinned("gpu"), "vllm": "0.30.0"}
    del versions["unsloth"]
    diagnosis = diagnose(RunParams.load("gemma3_smoke"), gpus=[H200], installed=versions.get)
    assert not diagnosis.can_run
    assert "pip install 'vllm==0.26.0'" in str(diagnosis) and "0.30.0" in check(diagnosis, "vllm").found
    assert "pip install 'unsloth==2026.10.7'" in str(diagnosis)


def test_libraries_that_every_process_compiles_again_are_named_with_the_line_that_ends_it(monkeypatch, tmp_path):
    package = tmp_path / "site" / "transformers" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.write_text("")
    monkeypatch.setattr(doctor, "_origin", lambda name: str(package) if name == "transformers" else None)

    def found():
        checks = diagnose(RunParams.load("smoke"), gpus=[], installed=pinned("cpu").get).checks
        return [one for one in checks if one.name == "bytecode"]

    monkeypatch.setattr(doctor.sys, "dont_write_bytecode", False)
    assert found() == []  # the first process keeps what it compiles
    monkeypatch.setattr(doctor.sys, "dont_write_bytecode", True)
    (one,) = found()
    assert one.ok is None and "PYTHONDONTWRITEBYTECODE is set and transformers came without" in one.found
    assert f"python -m compileall -q -j 0 {package.parent.parent} " in one.remedy and "20 s" in one.remedy
    monkeypatch.setattr(doctor.sys, "dont_write_bytecode", False)
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(package.parent)], check=True)
    monkeypatch.setattr(doctor.sys, "dont_write_bytecode", True)
    assert found() == []


def test_a_package_is_found_without_importing_it():
    assert doctor._origin("trl").endswith("__init__.py") and doctor._origin("no_such_package") is None


def test_a_local_build_of_the_right_version_is_the_right_version():
    versions = {**pinned("gpu"), "torch": "2.11.0+cu130"}
    assert check(diagnose(RunParams.load("gemma3_smoke"), gpus=[H200], installed=versions.get), "torch").ok


def test_an_old_gpu_and_an_old_driver_are_named():
    old = Gpu("Tesla T4", "535.1", 15.0, 14.0, (7, 5))
    diagnosis = diagnose(RunParams.load("gemma3_smoke"), gpus=[old], installed=pinned("gpu").get)
    assert check(diagnosis, "GPU").ok is False and "capability 8.0" in str(diagnosis)
    assert check(diagnosis, "driver").ok is False


def test_too_little_memory_says_which_settings_would_fit():
    params = RunParams.load("gemma3_smoke", model={"gpu_memory_utilization": 0.9})
    memory = check(diagnose(params, gpus=[CARD_24], installed=pinned("gpu").get), "GPU memory")
    assert memory.ok is False
    assert "gpu_memory_utilization=" in memory.remedy and "num_generations=2" in memory.remedy


def test_kept_activations_that_do_not_fit_are_to_be_recomputed():
    params = RunParams.load("full", model={"use_gradient_checkpointing": False})
    memory = check(diagnose(params, gpus=[CARD_24], installed=pinned("gpu").get), "GPU memory")
    assert memory.ok is False and "use_gradient_checkpointing=true" in memory.remedy


def test_the_suggested_utilization_fits():
    params = RunParams.load("gemma3_smoke", model={"gpu_memory_utilization": 0.9})
    memory = check(diagnose(params, gpus=[CARD_24], installed=pinned("gpu").get), "GPU memory")
    suggested = float(memory.remedy.split("gpu_memory_utilization=")[1].split(",")[0])
    lowered = RunParams.load("gemma3_smoke", model={"gpu_memory_utilization": suggested})
    assert check(diagnose(lowered, gpus=[CARD_24], installed=pinned("gpu").get), "GPU memory").ok


@pytest.mark.parametrize("total", [80.0, 48.0, 24.0, 16.0])
@pytest.mark.parametrize("backend", ["transformers", "unsloth"])
def test_auto_lets_the_preset_run_on_cards_of_every_size(total, backend):
    card = Gpu("a card", "580.1", total, 0.97 * total, (8, 9))
    params = RunParams.load("gemma3_smoke", model={"backend": backend})
    assert check(diagnose(params, gpus=[card], installed=pinned("gpu").get), "GPU memory").ok
    model, training = params.model, params.training
    shared = give_vllm_its_share(model, params.lora.r, training, backend, card)
    number = RunParams.load(
        "gemma3_smoke", model={"backend": backend, "gpu_memory_utilization": shared.gpu_memory_utilization}
    )
    estimate = sum(memory_estimate(number, card, backend).values())
    assert estimate <= 0.95 * card.free + 0.1


def test_auto_gives_vllm_what_it_can_use_and_no_more():
    params = RunParams.load("gemma3_smoke", model={"backend": "transformers"})
    gigabytes, in_4bit = [], []
    for total in (16.0, 24.0, 48.0, 80.0, 140.0):
        card = Gpu("a card", "", total, total)
        shared = give_vllm_its_share(params.model, 16, params.training, "transformers", card)
        gigabytes.append(total * shared.gpu_memory_utilization)
        in_4bit.append(shared.load_in_4bit)
    assert gigabytes[0] < 10 and gigabytes[1] < 17  # whatever is left beside the policy
    assert gigabytes[2:] == pytest.approx([gigabytes[2]] * 3, rel=0.01) and gigabytes[2] < 20
    assert in_4bit == [True, False, False, False, False]  # vLLM's weights: unpacked where there is room


def test_vllm_of_a_preview_generates_more_at_once_than_beside_training():
    params, card = RunParams.load("gemma3_smoke", model={"backend": "transformers"}), Gpu("a card", "", 80.0, 80.0)
    shares = [
        give_vllm_its_share(params.model, 16, training, "transformers", card).gpu_memory_utilization
        for training in (params.training, None)
    ]
    assert shares[1] > 2 * shares[0]


def test_weights_that_are_loaded_already_are_not_counted_twice():
    params = RunParams.load("full", model={"backend": "transformers", "load_in_4bit": False})
    found = budget(params.model, 16, params.training, "transformers", Gpu("", "", 24.0, 23.5))
    before, after = Gpu("", "", 24.0, 23.5), Gpu("", "", 24.0, 23.5 - found.weights)
    assert found.for_vllm(after, loaded=True) == pytest.approx(found.for_vllm(before))


def test_a_run_that_does_not_fit_is_told_before_loading_what_to_change_and_who_has_the_card(monkeypatch):
    params = RunParams.load("full", model={"backend": "transformers", "load_in_4bit": False})
    monkeypatch.setattr(memory, "gpu_processes", lambda: ["process 4711 (python, 60.0 GiB)"])
    taken = Gpu("NVIDIA H100", "", 79.6, 12.0)
    with pytest.raises(PolicyError) as raised:
        give_vllm_its_share(params.model, 16, params.training, "transformers", taken)
    sentence = str(raised.value)
    assert "12.0 of 79.6 GiB are free. Other processes on the card: process 4711" in sentence
    assert "--set model.backend=unsloth, or --set model.load_in_4bit=true" in sentence
    diagnosis = diagnose(params, gpus=[taken], installed=pinned("gpu").get)
    assert check(diagnosis, "GPU memory").ok is False


@pytest.mark.parametrize(
    ("total", "bits", "expected"),
    [(80.0, True, "transformers"), (80.0, False, "transformers"), (24.0, True, "transformers"),
     (24.0, False, "transformers"), (12.0, True, "unsloth"), (16.0, False, "unsloth")],
)  # fmt: skip
def test_auto_takes_unsloth_where_two_copies_of_the_weights_do_not_fit(total, bits, expected):
    params = RunParams.load("full", model={"load_in_4bit": bits})
    assert better_backend(params.model, params.training, Gpu("", "", total, 0.98 * total)) == expected


def test_who_computes_on_the_card_is_read(monkeypatch):
    import os

    answer = f"4711, /usr/bin/python3, 40960\n{os.getpid()}, python, 100\n12, a, b, [N/A]\n"
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(
        machine.subprocess, "run", lambda *args, **kwargs: subprocess.CompletedProcess(args, 0, stdout=answer)
    )
    assert machine.gpu_processes() == ["process 4711 (python3, 40.0 GiB)", "process 12 (a, b)"]


def test_gpus_that_this_process_may_not_use_are_not_counted(monkeypatch):
    asked = []

    def run(command, **kwargs):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, stdout="NVIDIA H100, 580.1, 81559, 81000, 9.0\n")

    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(machine.subprocess, "run", run)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert len(machine.find_gpus()) == 1 and "--id=1" in asked[0] and len(asked) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.find_gpus() == [] and len(asked) == 1


def test_more_of_anything_takes_more_memory():
    def needed(model=None, **sections):
        model = {"backend": "transformers", "gpu_memory_utilization": 0.5} | (model or {})
        params = RunParams.load("full", model=model, **sections)
        return sum(memory_estimate(params, H200, params.model.backend).values())

    base = needed()
    assert needed(model={"gpu_memory_utilization": 0.7}) > base
    assert needed(training={"max_completion_length": 1024}, model={"backend": "unsloth"}) > needed(
        model={"backend": "unsloth"}
    )
    assert needed(model={"use_gradient_checkpointing": False}) > base
    assert needed(model={"load_in_4bit": False}) > base


@pytest.mark.parametrize(
    ("model", "process_mib"),
    [
        ({"backend": "transformers", "gpu_memory_utilization": 0.06, "use_gradient_checkpointing": True}, 14_432),
        ({"backend": "unsloth", "gpu_memory_utilization": 0.1}, 18_470),
    ],
)
def test_the_measured_runs_are_estimated_within_a_twentieth(model, process_mib):
    """gemma3_smoke in 4 bits on an NVIDIA H200 (139.8 GiB), 2026-11-24: what nvidia-smi gave for the process."""
    params = RunParams.load("gemma3_smoke", model=model)
    estimate = sum(memory_estimate(params, Gpu("NVIDIA H200", "", 139.8, 139.8), params.model.backend).values())
    assert estimate == pytest.approx(process_mib / 1024, rel=0.05)


@pytest.mark.parametrize(
    ("tokens", "row", "fused", "beside", "measured"),
    [(4608, 4608, True, 1.6, 17.8), (2560, 2560, True, 1.6, 10.6), (4546, 4546, False, 4.3, 31.7),
     (7696, 0, False, 4.3, 49.0)],
)  # fmt: skip
def test_what_a_forward_pass_keeps_is_what_was_measured(tokens, row, fused, beside, measured):
    """Gemma-3 4B's shape in 16 bit, one group on an NVIDIA H100, 2026-11-24: PyTorch's peak in GiB above the weights.
    Beside the activations stood the logits of 1,024 tokens, in as many copies as they then had, and the gradients.
    """
    text = {"num_hidden_layers": 34, "hidden_size": 2560, "intermediate_size": 10240}
    kept = kept_activations(TextShape.of(text), tokens, row=row, fused=fused) / 2**30
    assert kept + beside == pytest.approx(measured, rel=0.02)


def test_parameters_are_counted_from_the_config():
    language, embeddings, vision = parameter_count(str(_embedded()))
    assert 0.0003 < language + embeddings + vision < 0.01
    assert parameter_count("unsloth/gemma-3-4b-it") == pytest.approx((3.21, 0.67, 0.41), abs=0.005)
    assert sum(parameter_count("google/gemma-3-27b-it")) == pytest.approx(27.4, abs=0.1)
    assert parameter_count("somebody/else") is None


def _embedded():
    from nbhelpers.embedded.model import embedded_path

    return embedded_path()


def test_nvidia_smi_is_read(monkeypatch):
    answer = "NVIDIA H200, 580.159.04, 143771, 143000, 9.0\nNVIDIA H200, 580.159.04, 143771, 10, [N/A]\n"
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(
        machine.subprocess, "run", lambda *args, **kwargs: subprocess.CompletedProcess(args, 0, stdout=answer)
    )
    first, second = machine.find_gpus()
    assert first.capability == (9, 0) and first.total == pytest.approx(140.4, abs=0.1)
    assert second.capability is None


def test_a_broken_driver_counts_as_no_gpu(monkeypatch):
    def fail(*args, **kwargs):
        raise subprocess.CalledProcessError(9, "nvidia-smi")

    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(machine.subprocess, "run", fail)
    assert machine.find_gpus() == []


# Of two hosts: four GPUs with NVLink, and two that meet at the CPU.
NVLINK = "\tGPU0\tGPU1\tGPU2\tGPU3\tCPU Affinity\n" + "".join(
    f"GPU{row}\t" + "\t".join(" X " if row == column else "NV18" for column in range(4)) + "\t0-63\n"
    for row in range(4)
)  # fmt: skip
PCIE = (
    "\t\x1b[4mGPU0\tGPU1\tNIC0\x1b[0m\nGPU0\t X \tSYS\tPIX\nGPU1\tSYS\t X \tSYS\nNIC0\tPIX\tSYS\t X\n\nLegend:\n\n  X\n"
)


def test_links_are_read_from_the_table_of_nvidia_smi():
    assert machine.links_in(NVLINK) == ["NV18"] * 6
    assert machine.links_in(PCIE) == ["SYS"]
    assert machine.links_in("") == []


def test_several_gpus_are_counted_and_what_is_taken_is_said_per_gpu():
    less = Gpu("NVIDIA H200", "580.159.04", 139.8, 3.0, (9, 0))

    def look(processes, gpus, links):
        params = RunParams.load("gemma3_smoke", training={"num_processes": processes})
        return diagnose(params, gpus=gpus, links=links, installed=pinned("gpu").get)

    every = look("auto", [H200] * 8, ["NV18"] * 28)
    assert every.can_run and "takes 8" in check(every, "processes").found
    assert check(every, "links").found == "NV18 between 28 pairs of GPUs"
    assert check(every, "GPU memory").found.startswith("per GPU: estimated")
    one = look(1, [H200, less], ["SYS"])
    assert one.can_run and "num_processes=auto" in str(one) and "over PCIe" in check(one, "links").found
    assert not look(2, [H200, less], ["SYS"]).can_run, "the GPU with the least free memory decides"
    three = look(3, [H200] * 4, [])
    assert not three.can_run and "num_processes=4 (allowed here: 1, 2, 4)" in str(three)


def test_the_gpu_that_serves_is_left_out_of_what_trains():
    def diagnosis(gpus):
        model = {"vllm_server": "auto", "backend": "transformers"}
        params = RunParams.load("gemma3_smoke", model=model, training={"num_processes": "auto"})
        return diagnose(params, gpus=[H200] * gpus, links=[], installed=pinned("gpu").get)

    assert check(diagnosis(5), "processes").found == "4 beside the one that serves; training.num_processes=auto takes 4"
    alone = diagnosis(1)
    assert not alone.can_run and "Leave model.vllm_server out" in str(alone)


def test_what_trl_and_transformers_take_is_known_without_importing_them():
    from dataclasses import fields

    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
    from trl import GRPOConfig

    assert {name for place in GRPO_CONFIG for name in fields_of(*place)} == {field.name for field in fields(GRPOConfig)}
    assert set(LOGGERS) <= set(INTEGRATION_TO_CALLBACK)
