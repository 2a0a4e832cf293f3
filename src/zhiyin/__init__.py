"""Zhiyin."""
