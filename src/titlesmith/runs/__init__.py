"""Run directories: paths, records, locks, and files that are written atomically."""

from titlesmith.runs.files import (
    digest,
    files,
    fsync,
    merging,
    naming_file,
    remove,
    replacing,
    swapped,
    swapping,
    write_json,
)
from titlesmith.runs.locks import LOCK_TIMEOUT, hold, release
from titlesmith.runs.paths import STAGES, notebook, root
from titlesmith.runs.record import EXECUTION_ONLY, MADE_UP, OUTPUTS, Run, existing, runs, versions

__all__ = [
    "EXECUTION_ONLY",
    "LOCK_TIMEOUT",
    "MADE_UP",
    "OUTPUTS",
    "STAGES",
    "Run",
    "digest",
    "existing",
    "files",
    "fsync",
    "hold",
    "merging",
    "naming_file",
    "notebook",
    "release",
    "remove",
    "replacing",
    "root",
    "runs",
    "swapped",
    "swapping",
    "versions",
    "write_json",
]
