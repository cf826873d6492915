"""The data sets: where each comes from, what it must look like, and stand-ins for it."""
