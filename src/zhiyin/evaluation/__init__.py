"""Honest evaluation: metrics, intervals and tests, the protocol that runs them, tables and reports."""
