"""The run directory, the samples on disk, and what machine this is."""

from nbhelpers.runs.directory import RunDirectory
from nbhelpers.runs.files import RecordError
from nbhelpers.runs.machine import (
    Gpu,
    environment_differences,
    find_gpus,
    find_links,
    gpu_processes,
    hardware,
    installed_version,
    versions,
)
from nbhelpers.runs.metrics import (
    LOSS_MEANS,
    Metric,
    duration,
    logged,
    metrics_shown,
    progress_line,
    reward_functions,
    seconds_left,
)
from nbhelpers.runs.one_writer import RunError, who_writes, writing
from nbhelpers.runs.samples import (
    CHANGES,
    FILTERS,
    ORDERS,
    ROLES,
    SampleStore,
    SampleWriter,
    TokenLogProbs,
    earned_the_same,
    read_log_probs,
)
from nbhelpers.runs.seals import flaw, read_seal, seal
from nbhelpers.runs.stages import is_interactive, log_into, shown_by, stage, words_end_nothing
from nbhelpers.runs.tested import check_libraries, compare_library, fields_of
