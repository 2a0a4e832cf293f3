"""The ground floor: errors, hyperparameters, run options, durations and threads. It knows nothing of data or models."""
