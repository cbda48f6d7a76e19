"""Exports: a run's model in the form of other programs."""
