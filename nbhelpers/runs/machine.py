"""What machine this is: installed versions, processor, memory and GPUs, all read without importing torch."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from nbhelpers.params import then_and_now

# What a result may depend on; the set that was run together is in pyproject.toml.
_PACKAGES = (
    "nbhelpers", "torch", "trl", "transformers", "datasets", "peft", "accelerate", "vllm", "unsloth", "unsloth-zoo",
    "bitsandbytes", "pillow", "numpy", "papermill",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Python and the packages that a result may depend on, as installed; nothing is imported."""
    found = {name: installed_version(name) for name in _PACKAGES}
    return {"python": platform.python_version()} | {name: version for name, version in found.items() if version}


def installed_version(name: str) -> str | None:
    """A package's version by its name as pip knows it, None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def environment_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each version, part of the machine, data set, grader or own reward's code that differs between two
    manifests.
    """
    made_with = [
        {key: manifest.get(key) for key in ("versions", "hardware", "grader", "own_rewards")}
        | {"data": (manifest.get("dataset") or {}).get("fingerprint")}
        for manifest in (then, now)
    ]
    return then_and_now(*made_with)


def hardware() -> dict[str, Any]:
    """Processor, cores that this process may use, memory in GiB, and the GPUs (name, memory in GiB)."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "gpus": _gpus(),
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if found := re.search(r"^model name\s*:\s*(.+)$", text, re.M):
            return found[1].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _gpus() -> list[dict[str, Any]]:
    # torch knows which GPUs this process may use, but is not imported for that: it takes seconds.
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None:
        properties = [cuda.get_device_properties(index) for index in range(cuda.device_count())]
        return [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in properties]
    return [{"name": gpu.name, "memory_gib": round(gpu.total, 1), "driver": gpu.driver} for gpu in find_gpus()]


@dataclass(frozen=True)
class Gpu:
    """One GPU as `nvidia-smi` reports it; memory in GiB."""

    name: str
    driver: str
    total: float
    free: float
    capability: tuple[int, int] | None = None


def _nvidia_smi(*query: str) -> str:
    """What it answers; nothing where there is no driver, or it fails."""
    if shutil.which("nvidia-smi") is None:
        return ""
    try:
        return subprocess.run(["nvidia-smi", *query], capture_output=True, text=True, timeout=30, check=True).stdout
    except (subprocess.SubprocessError, OSError):
        return ""


def find_gpus() -> list[Gpu]:
    """The NVIDIA GPUs that this process may use (`CUDA_VISIBLE_DEVICES`); none where there is no driver."""
    gpus = []
    for line in _of_visible_gpus("--query-gpu=name,driver_version,memory.total,memory.free,compute_cap").splitlines():
        name, driver, total, free, capability = (part.strip() for part in line.split(","))
        major, _, minor = capability.partition(".")
        known = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
        gpus.append(Gpu(name, driver, float(total) / 1024, float(free) / 1024, known))
    return gpus


def _of_visible_gpus(query: str) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return ""
    layout = "--format=csv,noheader,nounits"
    # Parts of a GPU (MIG) have names that it may not take: then all GPUs.
    return (visible and _nvidia_smi(query, layout, f"--id={visible}")) or _nvidia_smi(query, layout)


def find_links() -> list[str]:
    """How each pair of this machine's GPUs is linked, as `nvidia-smi topo -m` names it; none where it does not say."""
    return links_in(_nvidia_smi("topo", "-m"))


def links_in(table: str) -> list[str]:
    """The link of each pair of GPUs in the table of `nvidia-smi topo -m`: `NV18` (NVLink), `PIX`, `PHB`, `SYS`, ..."""
    lines = [line.split() for line in re.sub(r"\x1b\[[\d;]*m", "", table).splitlines() if line.strip()]
    rows = [line[1:] for line in lines[1:] if re.fullmatch(r"GPU\d+", line[0])]
    return [row[other] for place, row in enumerate(rows) for other in range(place + 1, len(rows)) if other < len(row)]


def gpu_processes() -> list[str]:
    """What else computes on the GPUs, as `nvidia-smi` sees it: "process 4711 (python, 40.2 GiB)"; without this one."""
    found = []
    for line in _of_visible_gpus("--query-compute-apps=pid,process_name,used_memory").splitlines():
        pid, name, used = (part.strip() for part in line.rsplit(",", 1)[0].split(",", 1) + [line.rpartition(",")[2]])
        memory = f", {float(used) / 1024:.1f} GiB" if used.isdigit() else ""
        if pid != str(os.getpid()):
            found.append(f"process {pid} ({Path(name).name}{memory})")
    return found
