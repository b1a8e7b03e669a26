"""Time of a run, and a cost model: operations and bytes of every tensor operation, and the time that they need.

Operations are counted with PyTorch's own formulas while the method itself runs, on real tensors or, for sizes that would
not fit or take hours, on the "meta" device, where tensors have shapes but no contents. The predicted time is that of a
roofline: each operation takes the longer of its arithmetic at the measured matrix-product rate and its traffic at the
measured memory bandwidth.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from ..studies.names import EMERDIFF, EMERDIFF_FAST, EMERDIFF_PIXEL
from ..timing import timed

# PyTorch's formulas, and one for the fused attention of CPUs, which they lack
FORMULAS = flop_registry | {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: (
        sdpa_flop_count(query.shape, key.shape, value.shape)
    )
}
NAME_OF_MODE = {"exact": EMERDIFF, "pixel": EMERDIFF_PIXEL, "fast": EMERDIFF_FAST}


def run_times(
    run: Callable[[], object], device: torch.device, repeats: int = 3, warm_up: bool = True
) -> list[float]:
    """Seconds of each of ``repeats`` runs, what they leave to a GPU included, after one that is not counted."""

    def finished():
        run()
        if device.type not in ("cpu", "meta"):
            torch.accelerator.synchronize(device)

    return [timed(finished)[1] for _ in range(repeats + warm_up)][warm_up:]


class Cost(TorchDispatchMode):
    """Counts what is computed within its context.

    Attributes:
        operations: (flops, bytes) of every operation in order.
    """

    def __init__(self):
        super().__init__()
        self.operations: list[tuple[int, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not func.is_view and "empty" not in func.__name__:  # views and uninitialised memory move nothing
            packet = func._overloadpacket
            flops = FORMULAS[packet](*args, **kwargs, out_val=result) if packet in FORMULAS else 0
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            self.operations.append((flops, sum(t.numel() * t.element_size() for t in tensors)))
        return result

    @property
    def flops(self) -> int:
        return sum(flops for flops, _ in self.operations)

    def seconds(self, machine: Machine, dtype: torch.dtype) -> float:
        """Roofline time on ``machine`` when products run in ``dtype``."""
        rate, bandwidth = machine.flops_per_second[dtype], machine.bytes_per_second
        return sum(max(flops / rate, size / bandwidth) for flops, size in self.operations)


@torch.no_grad()
def count(run: Callable[[], object]) -> Cost:
    """The cost of whatever ``run`` computes."""
    with Cost() as cost:
        run()
    return cost


@dataclass(frozen=True)
class Machine:
    """What the cost model needs to know: measured rates of large products, and of copying."""

    name: str
    flops_per_second: dict[torch.dtype, float]
    bytes_per_second: float

    @classmethod
    def measure(cls, device: torch.device, dtypes: Iterable[torch.dtype]) -> Machine:
        """Times square products of matrices of each dtype and a copy that no cache holds; a few seconds on a CPU.

        Products grow until one takes a fifth of a second: some processors have no instructions for bfloat16.
        """
        rates, repeats = {}, 5
        for dtype in dict.fromkeys(dtypes):
            for size in (256, 512, 1024, 2048):
                a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
                fastest = min(run_times(lambda: a @ b, device, repeats))  # noqa: B023
                rates[dtype] = 2 * size**3 / fastest
                if fastest > 0.2:
                    break
        source = torch.randn(2**26, device=device)
        target = torch.empty_like(source)
        fastest = min(run_times(lambda: target.copy_(source), device, repeats))
        return cls(_describe(device), rates, 2 * source.nbytes / fastest)

    def __str__(self) -> str:
        name = lambda dtype: str(dtype).removeprefix("torch.")
        rates = ", ".join(f"{name(d)} {rate / 1e9:.0f} GFLOP/s" for d, rate in self.flops_per_second.items())
        return f"{self.name}: matrix products in {rates}; memory {self.bytes_per_second / 1e9:.0f} GB/s"


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}"
    model, listing = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if listing.exists():
        names = [line for line in listing.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    memory = psutil.virtual_memory().total / 2**30
    return f"{model}, {torch.get_num_threads()} threads, {memory:.0f} GiB, PyTorch {torch.__version__}"
