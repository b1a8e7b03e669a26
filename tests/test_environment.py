"""Threads sleep when they have nothing to do and memory is in large pages, but where the user said otherwise."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
WORK = """
import json, resource, time, emerdiff_lib, torch
torch.set_num_threads(2)
small = torch.ones(2**17)
small.mul(3)
start = time.process_time()
for _ in range(20):
    small.mul(3)
    time.sleep(0.01)
seconds, before = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**24)  # 64 MiB, given back at once
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(json.dumps({"seconds": seconds, "faults": faults}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP library and large pages are Linux's")
def test_pytorch_is_asked_for_sleeping_threads_and_large_pages_unless_refused():
    refused = {"OMP_WAIT_POLICY": "ACTIVE", "THP_MEM_ALLOC_ENABLE": "0"}
    unset = {name: value for name, value in os.environ.items() if name not in (*refused, "GOMP_SPINCOUNT")}
    usual, otherwise = (
        json.loads(subprocess.check_output([sys.executable, "-c", WORK], env=environment, text=True))
        for environment in (unset, unset | refused)
    )
    assert usual["seconds"] < 0.5 * otherwise["seconds"]  # 20 rests of 10 ms, slept or spun
    if THP.exists() and "[never]" not in THP.read_text():
        assert otherwise["faults"] - usual["faults"] > 100_000  # 20 × 16 384 small pages, or next to none
