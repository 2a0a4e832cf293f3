"""Public data sets, fetched from their publishers: `zhiyin data list` and `zhiyin data get NAME`.

Nothing is redistributed. A set is moved into a folder of the cache when it is complete; an interrupted download
continues where it stopped. Checksums are those that publishers state, or that many users report for an archive. Where
there is none, the SHA-256 of the first download is recorded, and later ones are compared with it.
"""

from zhiyin.data.public_datasets.archives import unpack
from zhiyin.data.public_datasets.cache import cache_dir, cached, get
from zhiyin.data.public_datasets.download import download
from zhiyin.data.public_datasets.known_sets import SETS, find, listed
from zhiyin.data.public_datasets.public_set import PublicSet, Remote

__all__ = ["SETS", "PublicSet", "Remote", "cache_dir", "cached", "download", "find", "get", "listed", "unpack"]
