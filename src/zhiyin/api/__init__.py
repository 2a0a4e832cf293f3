"""The HTTP interface as data: each endpoint once, with the types of its requests and responses.

The service routes, decodes and describes by it, and the Python client builds its requests by it.
"""
