"""Policies from disk: the folders that `Policy.save` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zhiyin.core.errors import DataError
from zhiyin.models.state_files import read_manifest, read_state
from zhiyin.policies.policy import FORMAT, Policy
from zhiyin.policies.registry import make


def load(path: Any) -> Policy:
    """Read a policy that `save` wrote; it goes on learning where it stopped.

    Raises DataError when the folder holds none, or a damaged one, or one of another format.
    """
    source = Path(path)
    manifest = read_manifest(source, "policy", FORMAT)
    try:
        policy = make(manifest["policy"], manifest["settings"])
        entries = manifest["state"].items()
        if entries:
            policy._restore({name: read_state(source, name, kind, mmap=False) for name, kind in entries})
        policy.n_updates = int(manifest["updates"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "restore the folder from a backup, or rebuild the policy from the log of decisions"
        raise DataError(f"the policy is damaged ({error})", file=source, remedy=remedy) from None
    return policy
