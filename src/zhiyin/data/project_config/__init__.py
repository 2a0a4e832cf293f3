"""`zhiyin.toml`: what a project reads, trains and judges by. Every key is described once, in its section.

The file that `write_config` writes, the checks of `load_config` and its errors read the same fields. An unknown key is
an error that names the nearest known one; a missing key takes its default.
"""

from zhiyin.data.project_config.config import FILE_NAME, Config
from zhiyin.data.project_config.loading import load_config, parse_usable, read_text, row_of
from zhiyin.data.project_config.project_data import (
    read_arguments,
    read_data,
    resolved,
    store_address,
    streams_address,
    streams_folder,
)
from zhiyin.data.project_config.service_sections import AdsSection, ServiceSection
from zhiyin.data.project_config.writing import write_config

__all__ = [
    "FILE_NAME", "AdsSection", "Config",
    "ServiceSection", "load_config", "parse_usable", "read_arguments", "read_data", "read_text",
    "resolved", "row_of", "store_address", "streams_address", "streams_folder", "write_config",
]  # fmt: skip
