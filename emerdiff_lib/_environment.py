"""Two wishes that PyTorch reads from the environment when it is loaded; what the user has set stays.

Threads of OpenMP sleep at once when they have nothing to do. By default they spin for milliseconds, and on cores that other
processes use as well each burns the time that the other, which has the work, waits for (CHANGELOG.md has the numbers). Import
this library before torch, or set OMP_WAIT_POLICY yourself; OMP_WAIT_POLICY=ACTIVE is faster on cores that nobody else uses.

Memory is asked for in large pages (Linux). On a CPU, large tensors go back to the system after every operation and the next
one faults its pages in again: about an eighth of a U-Net call, and a hundred times rarer with large pages.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
