"""The paper's tables (arXiv 2101.11605) beside our counts, and our runs where there are any."""
