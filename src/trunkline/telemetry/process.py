"""What the operating system says about this process, under the names that Prometheus's own clients use.

Linux says more than others: what cannot be found out is left out.
"""

import os
import resource
from collections.abc import Iterable
from pathlib import Path

from trunkline.telemetry.metrics import Family, Sample, counter, gauge

_STATM = Path("/proc/self/statm")
_DESCRIPTORS = Path("/proc/self/fd")


class Process:
    """`started_at` is the unix time."""

    def __init__(self, *, started_at: float) -> None:
        self._started_at = started_at

    def families(self) -> Iterable[Family]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield counter(
            "process_cpu_seconds_total", "CPU time, user and system.", [Sample(used.ru_utime + used.ru_stime)]
        )
        yield gauge("process_start_time_seconds", "Unix time of the start.", [Sample(self._started_at)])
        yield gauge("process_max_fds", "File descriptors it may have open.", [Sample(most)])
        try:
            resident = int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            descriptors = len(os.listdir(_DESCRIPTORS))  # noqa: PTH208 - names are all that is wanted, and it is asked often
        except (OSError, ValueError):
            return  # no /proc here
        yield gauge("process_resident_memory_bytes", "Memory in RAM.", [Sample(resident)])
        yield gauge("process_open_fds", "File descriptors open.", [Sample(descriptors)])
