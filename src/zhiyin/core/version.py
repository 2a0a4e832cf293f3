"""The version of the package, which saved models, reports and the service state."""

__version__ = "0.1.0"
