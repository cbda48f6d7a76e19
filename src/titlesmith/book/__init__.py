"""The book: pages for every finished run and every sweep, rendered by Jupyter Book, and published."""

import sys

# With this package, jsonschema compiles a grammar for seconds to check what no notebook has: addresses with any letter
sys.modules.setdefault("rfc3987_syntax", None)
