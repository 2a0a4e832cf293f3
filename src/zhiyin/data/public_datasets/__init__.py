"""Public data sets, fetched from their publishers: `zhiyin data list` and `zhiyin data get NAME`.

Nothing is redistributed. A set lies in a folder of the cache once it is complete, never before; a download
that broke off goes on where it stopped. Checksums are those publishers state, or that many users report alike
of one archive. Where there is none, the first download's SHA-256 is kept and later ones are held against it.
"""

from zhiyin.data.public_datasets.archives import unpack
from zhiyin.data.public_datasets.cache import cache_dir, cached, get
from zhiyin.data.public_datasets.download import download
from zhiyin.data.public_datasets.known_sets import SETS, find, listed
from zhiyin.data.public_datasets.public_set import PublicSet, Remote

__all__ = ["SETS", "PublicSet", "Remote", "cache_dir", "cached", "download", "find", "get", "listed", "unpack"]
