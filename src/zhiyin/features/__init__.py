"""Columns into arrays: numbers, categories, text, images, time. Learned on training rows only, the same code when
serving. `feature_table.Features` learns the columns of a frame and encodes frames; the other modules are its parts."""
