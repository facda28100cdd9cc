"""From arrays and weights to results: checks, the choice of a kernel, tapes, stacks of cells."""
