"""Columns into arrays: numbers, categories, text, images, time. Learned on training rows only, the same code when serving."""
