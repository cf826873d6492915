"""The results store, its statistics, and the paper's tables with our numbers in them."""
