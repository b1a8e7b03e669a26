"""Asks for memory in large pages, before anything here makes a tensor.

On a CPU, large tensors go back to the system after every operation and the next one faults its pages in again: about an eighth
of a U-Net call. PyTorch's own switch for transparent huge pages (Linux) makes that a hundred times rarer. It is read when
the first tensor is made: programs that made one before importing this library run a little slower. Set it to 0 to refuse.
"""

import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
