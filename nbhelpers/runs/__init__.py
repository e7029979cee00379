"""The run directory, the samples on disk, and what machine this is."""

from nbhelpers.runs.directory import RunDirectory
from nbhelpers.runs.machine import Gpu, find_gpus, hardware, versions
from nbhelpers.runs.metrics import (
    LOSS_MEANS,
    Metric,
    logged,
    metrics_shown,
    progress_line,
    reward_functions,
    seconds_left,
)
from nbhelpers.runs.samples import FILTERS, SampleStore, SampleWriter
from nbhelpers.runs.tested import check_libraries, compare_library, tested_version
