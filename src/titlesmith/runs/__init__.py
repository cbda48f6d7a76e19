"""Run directories: paths, records, locks, and files that are written atomically."""
