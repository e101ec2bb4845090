"""Run one command and measure its wall time and peak memory from outside.

    python ci/benchmarks/measure.py REPORT.json COMMAND [ARGUMENT...]

This program is small on purpose. The operating system counts the memory of the process that starts a command as part of
the command's peak, so a program that holds arrays must not start the command itself. Peak memory is that of the command
or of its largest descendant, as counted by the operating system. It is not sampled.
"""

import json
import os
import subprocess
import sys
import time

__all__ = ["measure"]


def measure(command: list[str]) -> dict[str, object]:
    """Run a command and return its status, wall and processor seconds and peak resident bytes."""
    start = time.perf_counter()
    with subprocess.Popen(command) as process:
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "status": process.returncode,
        "seconds": round(seconds, 3),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }


if __name__ == "__main__":
    report = measure(sys.argv[2:])
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(report, file)
    sys.exit(int(report["status"] != 0))
