"""What to show when unsure. Today the simulator: a film shop whose tastes are known, to try policies on."""
