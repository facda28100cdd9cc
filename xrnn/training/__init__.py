"""Training a model on data: batches, the loop, its history and its checkpoints."""
