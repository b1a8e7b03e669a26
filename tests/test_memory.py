"""Memory is asked for in large pages, and only where nobody said otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
WORK = """
import resource, torch, emerdiff_lib
for _ in range(20):
    torch.ones(2**24)  # 64 MiB, given back at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(not THP.exists() or "[never]" in THP.read_text(), reason="this kernel has no large pages")
def test_large_tensors_take_large_pages_unless_refused():
    faults = {}
    for wish in ("unset", "0"):
        environment = {key: value for key, value in os.environ.items() if key != "THP_MEM_ALLOC_ENABLE"}
        environment |= {} if wish == "unset" else {"THP_MEM_ALLOC_ENABLE": wish}
        run = subprocess.run(
            [sys.executable, "-c", WORK], capture_output=True, text=True, check=True, env=environment
        )
        faults[wish] = int(run.stdout)
    assert faults["0"] - faults["unset"] > 100_000  # 20 × 16 384 small pages, or next to none
