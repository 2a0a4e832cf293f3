"""Retrieve, rank, re-rank: a recommender made of recommenders, with rules and reasons."""
