"""The book: pages for every finished run and every sweep, rendered by Jupyter Book, and published."""

from pathlib import Path

from titlesmith.runs import replacing


def write(path: Path, content: str | bytes) -> None:
    """Writes a file if its content changes, so that Sphinx reads only changed pages again."""
    content = content.encode() if isinstance(content, str) else content
    if not path.is_file() or path.read_bytes() != content:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
