"""Experiments: who gets which variant, and whether a variant is better: assignment, tests, intervals, interleaving."""
