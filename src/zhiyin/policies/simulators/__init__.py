"""Simulated users: environments of many at once, models of choice and clicks, delays, arrivals; a film shop."""
