"""Faults: what a source could not read, counted by reason, with the first places where it was met."""

EXAMPLES = 3


class Faults:
    """Rows of a source that are no papers.

    Attributes
    ----------
    found
        For each reason ``{"rows": how many, "examples": [where and what, at most `EXAMPLES`]}``.
    """

    def __init__(self) -> None:
        self.found: dict[str, dict] = {}

    def add(self, reason: str, example: str, rows: int = 1) -> None:
        """Counts ``rows`` rows; ``example`` says where (file and line) and what stands there."""
        entry = self.found.setdefault(reason, {"rows": 0, "examples": []})
        entry["rows"] += rows
        if len(entry["examples"]) < EXAMPLES:
            entry["examples"].append(example)
