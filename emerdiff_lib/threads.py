"""Sharing a CPU's cores: PyTorch's threads stop spinning while other processes need the cores.

Between two operations, the threads of GNU's OpenMP library spin for some milliseconds before they sleep. On idle cores that
is right, as waking up costs more: without spinning, EmerDiff on Toyscapes takes about 1.5 times as long on two cores. On busy
ones every thread burns the time that the other, which has the work, waits for: about 40 times as long. The choice cannot be made
once for all, and the variables for it (OMP_WAIT_POLICY, GOMP_SPINCOUNT) are read when torch is loaded.

One rule of the library may be used at any time, though: while a process has more OpenMP threads than CPUs, it hardly spins
(GNU libgomp manual, "GOMP_SPINCOUNT"). Every Python thread that runs a parallel operation gets OpenMP threads of its own, which
sleep when there is nothing more to do and go when it ends. So a few threads that did one operation and now sleep
stop the spinning as long as they live. How many threads work, and every bit of what they compute, remain the same.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
import torch

_WINDOW = (
    0.1  # seconds over which the cores are observed; at first less, so that short stages are helped as well
)
_FIRST_WINDOW = 0.04  # one of the kernel's ticks more or less in it stays within the slack
_SLACK = 0.3  # cores of others' work that are overlooked: the system itself is never quite idle


@contextmanager
def sharing_cores(device: torch.device) -> Iterator[None]:
    """Within the context, torch's threads spin only while the cores that they use are free of other processes.

    Does nothing for another device than the CPU, a single thread, another system than Linux, or where OMP_WAIT_POLICY or
    GOMP_SPINCOUNT say what is wanted. Changes no setting of torch or of the process.
    """
    threads = torch.get_num_threads()
    chosen = "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ
    if device.type != "cpu" or threads == 1 or sys.platform != "linux" or chosen:
        yield
        return
    finished = threading.Event()
    watcher = threading.Thread(target=_watch, args=(threads, finished), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()


def _watch(threads: int, finished: threading.Event) -> None:
    """Stops the spinning of ``threads`` OpenMP threads whenever other processes leave them fewer cores than that."""
    cores = os.sched_getaffinity(0)
    start, spent = time.monotonic(), _seconds_of_others(cores)
    with ExitStack() as stopped:
        spinning, window = True, _FIRST_WINDOW
        while not finished.wait(window):
            window = _WINDOW
            now, spent_now = time.monotonic(), _seconds_of_others(cores)
            free = len(cores) - (spent_now - spent) / (now - start)
            start, spent = now, spent_now
            if spinning and free < threads - _SLACK:
                stopped.enter_context(spinning_stopped(threads))
                spinning = False
            elif not spinning and free >= threads - _SLACK:
                stopped.close()
                spinning = True


@contextmanager
def spinning_stopped(threads: int) -> Iterator[None]:
    """Within the context, OpenMP's threads of this process sleep at once when they have nothing to do.

    Args:
        threads: that each thread that computes has in its team, at least 2, as torch.get_num_threads() says.
    """
    # one who computes has ``threads``, each that rests here adds the others of its team: together more than there are CPUs
    cpus = os.cpu_count() or 1
    resting = 1 + (cpus - threads) // (threads - 1) if threads <= cpus else 0
    ready, over = threading.Barrier(resting + 1), threading.Event()

    def rest():
        torch.empty(2**17).zero_()  # large enough for torch to split it
        ready.wait()
        over.wait()

    members = [threading.Thread(target=rest, daemon=True) for _ in range(resting)]
    for member in members:
        member.start()
    ready.wait()
    try:
        yield
    finally:
        over.set()
        for member in members:
            member.join()


def _seconds_of_others(cores: set[int]) -> float:
    """CPU time that everything but this process has spent on ``cores`` since the machine was started."""
    times = [t for i, t in enumerate(psutil.cpu_times(percpu=True)) if i in cores]
    busy = sum(
        sum(t[:8]) - t.idle - t.iowait for t in times
    )  # what stands behind the eighth is part of the others
    own = psutil.Process().cpu_times()
    return busy - own.user - own.system
