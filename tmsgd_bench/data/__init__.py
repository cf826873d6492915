"""The data sets: their sources and checksums, how they are prepared, and synthetic data in their place."""
