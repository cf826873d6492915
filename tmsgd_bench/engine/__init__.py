"""One run from its settings to its stored result."""
