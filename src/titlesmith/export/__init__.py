"""Exports: a run's model as a folder that other programs read."""

from titlesmith.export.folder import export
