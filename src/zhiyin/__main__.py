"""`python -m zhiyin` and the script `zhiyin`: the command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Ctrl-C while it is still being imported is no traceback either."""
    try:
        from zhiyin.cli.main import main as run
    except KeyboardInterrupt:
        print("interrupted, nothing was begun", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
