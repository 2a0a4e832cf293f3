"""Recommenders, one file a family. A new model is one file here and one line in `registry.py`."""
