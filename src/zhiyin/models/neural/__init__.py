"""What all neural models and rankers share: the training loop, losses, layers, batches, checkpoints, processes."""
