"""Real-time scheduling of a process, where the user may have it."""

import contextlib
import os

PRIORITY = 10  # of SCHED_FIFO, 1 to 99: before everything ordinary, behind the kernel's own


def ask_for_real_time(priority: int = PRIORITY) -> bool:
    """Lets this process, and the threads and processes that it starts from now on, run before all ordinary ones.

    Args:
        priority: 1 to 99; the higher one goes first.

    Returns:
        Whether the kernel agreed: it does for root, and for users who were given RLIMIT_RTPRIO.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
        return True
    return False
