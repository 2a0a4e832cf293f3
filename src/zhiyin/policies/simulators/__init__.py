"""Simulated users for slates: environments of many users at once, models of choice and clicks, delays and arrivals."""
