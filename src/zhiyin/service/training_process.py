"""The process of a training beside a service: `python -m zhiyin.service.training_process train ...`, as `zhiyin train`.

It ends with the process that started it, however that ends. A training is stopped and continued in turn by its parent;
without this, one whose parent is killed while it is stopped would stay so, and hold the lock of trainings for ever.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

# Name of the environment variable with the id of the process that a training ends with.
PARENT = "ZHIYIN_TRAINING_PARENT"
_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends. Does nothing where there is no such call.

    parent: id of the process that started this one; where that has ended already, this process ends at once.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the service that started this training has ended")


def main() -> None:
    end_with_parent(int(os.environ.pop(PARENT)))
    runpy.run_module("zhiyin", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
