"""Run directories: paths, records, locks, and files that are written atomically."""

from titlesmith.runs.files import digest, list_files, merging, remove, replacing, swapped, swapping, write_json
from titlesmith.runs.locks import LOCK_TIMEOUT, chain_lock, hold, is_locked, release
from titlesmith.runs.paths import STAGES, notebook, project, root, shipped
from titlesmith.runs.record import EXECUTION_ONLY, MADE_UP, OUTPUTS, Run, list_runs, open_run, versions
