"""`python -m benchmarks`: this project against the ideal and against the usual ways, in one run and as ratios."""
