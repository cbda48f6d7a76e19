"""Sweeps: many runs of one experiment on Dask, each through the same notebooks, shared stages executed once.

A sweep's record is ``sweeps/<name>.json``. Its runs are ordinary runs, whose run.json names the sweep.
"""

from titlesmith.sweep.driver import run
from titlesmith.sweep.plan import Plan, read, record_path
