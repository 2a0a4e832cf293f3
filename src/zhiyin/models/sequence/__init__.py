"""Neural networks: the one training loop they share, losses, batches, and the sequence models."""
