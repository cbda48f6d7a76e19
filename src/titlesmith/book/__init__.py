"""The book: pages for every finished run and every sweep, rendered by Jupyter Book, and published."""
