"""Columns into arrays: numbers, categories, text, images, time. Learned on training rows only, the same code when
serving. `table.Features` learns the columns of a frame and encodes frames; the rest of the room are its parts."""
