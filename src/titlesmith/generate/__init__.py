"""Generation: from prompts and prefixes to checked texts."""
