"""Exploration policies. Contains the simulator: a film shop with known tastes, to evaluate policies on."""
