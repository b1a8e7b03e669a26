"""A cost model: floating-point operations and bytes of every tensor operation, and the time that a machine needs for them.

Operations are counted with PyTorch's own formulas while the method itself runs, on real tensors or, for sizes that would
not fit or take hours, on the "meta" device, where tensors have shapes but no contents. The predicted time is that of a
roofline: each operation takes the longer of its arithmetic at the measured matrix-product rate and its traffic at the
measured memory bandwidth.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ..denoiser import Denoiser
from ..inversion import Trajectory
from ..modulation import Decode, image_differences, modulated_latents, shortened, signed_offsets
from ..settings import Perturbation, Shortcuts
from ..threads import sharing_cores
from ..timing import timed


@dataclass
class Cost:
    """(flops, bytes) of every operation in order."""

    operations: list[tuple[int, int]] = field(default_factory=list)

    @property
    def flops(self) -> int:
        return sum(flops for flops, _ in self.operations)

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.operations)

    def seconds(self, machine: Machine, dtype: torch.dtype) -> float:
        """Roofline time on ``machine`` when products run in ``dtype``."""
        rate, bandwidth = machine.rate(dtype), machine.bytes_per_second
        return sum(max(flops / rate, size / bandwidth) for flops, size in self.operations)

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.operations + other.operations)

    def __mul__(self, times: int) -> Cost:
        return Cost(self.operations * times)


class _Counter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.cost = Cost()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not func.is_view and "empty" not in func.__name__:  # views and uninitialised memory move nothing
            packet = func._overloadpacket
            flops = flop_registry[packet](*args, **kwargs, out_val=result) if packet in flop_registry else 0
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            self.cost.operations.append((flops, sum(t.numel() * t.element_size() for t in tensors)))
        return result


@torch.no_grad()
def count(run: Callable[[], object]) -> Cost:
    """The cost of whatever ``run`` computes."""
    with _Counter() as counter:
        run()
    return counter.cost


@dataclass(frozen=True)
class Machine:
    """What the cost model needs to know: measured rates of large products, and of copying."""

    name: str
    flops_per_second: dict[str, float]
    bytes_per_second: float

    @classmethod
    def measure(
        cls,
        device: torch.device | str = "cpu",
        dtypes: Iterable[torch.dtype] = (torch.float32, torch.bfloat16),
        size: int = 2048,
        repeats: int = 5,
    ) -> Machine:
        """Times square products of matrices of each dtype and a copy that no cache holds; about two seconds on a CPU."""
        device = torch.device(device)
        rates = {}
        for dtype in dtypes:
            a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
            fastest = min(run_times(lambda: a @ b, repeats, device))  # noqa: B023
            rates[_name(dtype)] = 2 * size**3 / fastest
        source = torch.randn(2**26, device=device)
        target = torch.empty_like(source)
        bandwidth = 2 * source.nbytes / min(run_times(lambda: target.copy_(source), repeats, device))
        return cls(_describe(device), rates, bandwidth)

    def rate(self, dtype: torch.dtype) -> float:
        """FLOP/s of large matrix products in ``dtype``, one of those that were measured."""
        return self.flops_per_second[_name(dtype)]

    def __str__(self) -> str:
        rates = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in self.flops_per_second.items())
        return f"{self.name}: matrix products in {rates}; memory {self.bytes_per_second / 1e9:.0f} GB/s"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}"
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return (
        f"{model}, {torch.get_num_threads()} threads, {psutil.virtual_memory().total / 2**30:.0f} GiB, "
        f"PyTorch {torch.__version__}"
    )


def run_times(
    run: Callable[[], object], repeats: int = 3, device: torch.device | str = "cpu", warm_up: bool = True
) -> list[float]:
    """Seconds of each of ``repeats`` runs, what they leave to a GPU included, after one that is not counted."""
    device = torch.device(device)

    def wait():
        if device.type not in ("cpu", "meta"):
            torch.accelerator.synchronize(device)

    def finished():
        run()
        wait()

    wait()
    with sharing_cores(device):
        return [timed(finished)[1] for _ in range(repeats + warm_up)][warm_up:]


def modulation_cost(
    denoiser: Denoiser,
    decode: Decode,
    latent_shape: tuple[int, int, int],
    grid: tuple[int, int],
    num_masks: int,
    perturbation: Perturbation,
    chunk_size: int,
    shortcuts: Shortcuts = Shortcuts(),  # noqa: B008
) -> Cost:
    """The cost of modulated denoising and decoding of one image, counted on the device of the denoiser ("meta" will do).

    Args:
        latent_shape: (C, h, w) of the latents; ``grid`` that of the masks.
        num_masks: K.
        perturbation, shortcuts, chunk_size: as in :func:`~emerdiff_lib.modulation.difference_maps`. One batch of each size
            is counted and multiplied.
    """
    device, start = denoiser.unet.device, perturbation.modulation_timestep
    steps = [t for t in denoiser.timesteps if t <= start]
    drawn = {t: torch.empty(1, *latent_shape, device=device) for t in steps}
    clean = torch.empty(1, *latent_shape, device=device)
    trajectory = Trajectory("ddpm", steps, drawn, clean, len(denoiser.timesteps))
    visited = shortened(steps, start, shortcuts.denoising_steps)

    def batch(size: int):
        offsets = signed_offsets(torch.ones(size, *grid, device=device), 1.0, shortcuts.one_sided)
        rows = modulated_latents(denoiser, [trajectory], offsets, perturbation, visited)
        image_differences(rows, decode, shortcuts)

    whole, rest = divmod(num_masks, chunk_size)
    cost = Cost()
    for size, times in ((chunk_size, whole), (rest, 1)):
        if size and times:
            cost = cost + count(lambda: batch(size)) * times  # noqa: B023
    return cost
