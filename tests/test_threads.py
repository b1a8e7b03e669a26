"""Two threads on busy cores: they stop spinning, compute the same, and nobody's settings change."""

import json
import os
import subprocess
import sys
import time
from collections import namedtuple
from contextlib import contextmanager

import psutil
import pytest
import torch

from emerdiff_lib import threads

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP library is Linux's")

# CPU time of 10 parallel operations with pauses of a millisecond, in which idle threads spin or sleep
SCRIPT = """
import json, time, torch
from emerdiff_lib.threads import spinning_stopped

ones = torch.ones(2**17)

def spent():
    total = torch.zeros(())
    start = time.process_time()
    for _ in range(10):
        total = total + ones.mul(3).sum()
        time.sleep(0.001)
    return time.process_time() - start, total.item()

def least():
    return min(spent() for _ in range(3))

least()
before = least()
with spinning_stopped(2):
    inside, threads = least(), torch.get_num_threads()
print(json.dumps(dict(before=before, inside=inside, after=least(), threads=threads)))
"""


@pytest.mark.slow  # a measurement: a busy machine can spoil it
def test_idle_threads_sleep_at_once_within_the_context_and_spin_again_after_it():
    chosen = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MKL_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in chosen}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    (before, value), (inside, same), (after, _) = found["before"], found["inside"], found["after"]
    assert inside < 0.6 * before and inside < 0.6 * after, found
    assert found["threads"] == 2 and value == same == 10 * 3 * 2**17


@pytest.fixture
def stopped(monkeypatch):
    """How often spinning was stopped and let go again, with two threads and no wish of the user's."""
    calls = []

    @contextmanager
    def record(count):
        calls.append(count)
        yield
        calls.append("over")

    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "spinning_stopped", record)
    monkeypatch.setattr(threads, "_WINDOW", 0.01)
    monkeypatch.setattr(threads, "_FIRST_WINDOW", 0.01)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    return calls


def others_use(monkeypatch, cores):
    """Other processes keep ``cores()`` cores busy."""
    spent, last = 0.0, time.monotonic()

    def seconds(_):
        nonlocal spent, last
        now = time.monotonic()
        spent, last = spent + cores() * (now - last), now
        return spent

    monkeypatch.setattr(threads, "_seconds_of_others", seconds)


def wait_for(condition):
    limit = time.monotonic() + 10
    while not condition() and time.monotonic() < limit:
        time.sleep(0.005)
    assert condition()


def test_spinning_stops_while_others_work_and_only_then(stopped, monkeypatch):
    busy = 0.1
    others_use(monkeypatch, lambda: busy)
    with threads.sharing_cores(CPU):
        time.sleep(0.1)
        assert stopped == []
        busy = 1.0
        wait_for(lambda: stopped == [2])
        busy = 0.0
        wait_for(lambda: stopped == [2, "over"])
        busy = 2.0
        wait_for(lambda: stopped == [2, "over", 2])
    assert stopped == [2, "over"] * 2  # let go at the end, whatever others do


def test_an_error_ends_the_watch(stopped, monkeypatch):
    others_use(monkeypatch, lambda: 2.0)
    with pytest.raises(RuntimeError, match="stop"), threads.sharing_cores(CPU):
        wait_for(lambda: stopped == [2])
        raise RuntimeError("stop")
    assert stopped == [2, "over"]


@pytest.mark.parametrize("reason", ["another device", "one thread", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_nothing_is_done_where_nothing_is_to_be_done(stopped, monkeypatch, reason):
    others_use(monkeypatch, lambda: 2.0)
    if reason == "one thread":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    elif reason != "another device":
        monkeypatch.setenv(reason, "1")
    with threads.sharing_cores(torch.device("meta" if reason == "another device" else "cpu")):
        time.sleep(0.1)
    assert stopped == []


def test_others_work_is_everything_but_this_process(monkeypatch):
    """On the two cores of four that it may use: 100 s of work in all, 30 of them its own."""
    kinds = "user nice system idle iowait irq softirq steal guest guest_nice"
    Times = namedtuple("Times", kinds)
    first, second = Times(40, 1, 5, 900, 50, 1, 1, 2, 40, 0), Times(30, 0, 10, 900, 50, 2, 3, 5, 0, 0)
    other = Times(500, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: [other, first, second, other])
    own = namedtuple("Own", "user system children_user children_system")(20, 10, 400, 0)
    monkeypatch.setattr(psutil.Process, "cpu_times", lambda self: own)
    assert threads._seconds_of_others({1, 2}) == 100 - 30


def test_a_loop_in_another_process_is_seen():
    cores = os.sched_getaffinity(0)
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        start, before = time.monotonic(), threads._seconds_of_others(cores)
        time.sleep(1)
        busy = (threads._seconds_of_others(cores) - before) / (time.monotonic() - start)
    finally:
        loop.kill()
        loop.wait()
    assert 0.3 < busy < len(cores) + 0.2
