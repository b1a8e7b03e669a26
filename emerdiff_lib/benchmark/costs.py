"""A cost model: floating-point operations and bytes of every tensor operation, and the time that a machine needs for them.

Operations are counted with PyTorch's own formulas while the method itself runs, on real tensors or, for sizes that would
not fit or take hours, on the "meta" device, where tensors have shapes but no contents. The predicted time is that of a
roofline: each operation takes the longer of its arithmetic at the measured matrix-product rate and its traffic at the
measured memory bandwidth.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ..inversion import Trajectory
from ..modulation import EXACT, Decode, Shortcuts, modulated_latents, shortened, signed_offsets


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
        rate, bandwidth = (
            machine.flops_per_second[str(dtype).removeprefix("torch.")],
            machine.bytes_per_second,
        )
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
    def measure(cls, device: torch.device | str = "cpu", size: int = 2048, repeats: int = 5) -> Machine:
        """Times square products of float32 and bfloat16 matrices and a copy that no cache holds; about two seconds on a CPU."""
        device = torch.device(device)
        rates = {}
        for dtype in (torch.float32, torch.bfloat16):
            a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
            rates[str(dtype).removeprefix("torch.")] = (
                2 * size**3 / min(timed(lambda: a @ b, repeats, device))
            )  # noqa: B023
        source = torch.randn(2**26, device=device)
        target = torch.empty_like(source)
        bandwidth = 2 * source.nbytes / min(timed(lambda: target.copy_(source), repeats, device))
        return cls(_describe(device), rates, bandwidth)


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


def timed(
    run: Callable[[], object], repeats: int = 3, device: torch.device | str = "cpu", warm_up: bool = True
) -> list[float]:
    """Seconds of each of ``repeats`` runs, after one that is not counted."""
    synchronise = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    seconds = []
    for _ in range(repeats + warm_up):
        synchronise()
        start = time.perf_counter()
        run()
        synchronise()
        seconds.append(time.perf_counter() - start)
    return seconds[warm_up:]


def median(run: Callable[[], object], repeats: int = 3, device: torch.device | str = "cpu") -> float:
    """Median seconds of ``repeats`` runs."""
    return statistics.median(timed(run, repeats, device))


def modulation_cost(
    denoiser,
    decode: Decode,
    latent_shape: tuple[int, int, int],
    grid: tuple[int, int],
    num_masks: int,
    layer: str,
    timestep: int,
    chunk_size: int,
    shortcuts: Shortcuts = EXACT,
) -> Cost:
    """The cost of modulated denoising and decoding of one image, counted on the device of the denoiser ("meta" will do).

    Args:
        latent_shape: (C, h, w) of the latents; ``grid`` that of the masks.
        num_masks: K; ``chunk_size`` as in :func:`~emerdiff_lib.modulation.difference_maps`. One batch of each size is
            counted and multiplied.
    """
    device, dtype = denoiser.unet.device, torch.float32
    steps = [t for t in denoiser.timesteps if t <= timestep]
    drawn = {t: torch.empty(1, *latent_shape, device=device, dtype=dtype) for t in steps}
    clean = torch.empty(1, *latent_shape, device=device, dtype=dtype)
    trajectory = Trajectory("ddpm", steps, drawn, clean, len(denoiser.timesteps))
    visited = shortened(trajectory, timestep, shortcuts.denoising_steps)
    passes = min(shortcuts.coded_passes or num_masks, num_masks)

    def batch(size: int):
        offsets = signed_offsets(torch.ones(size, *grid, device=device), 1.0, shortcuts.one_sided)
        latents = modulated_latents(denoiser, trajectory, offsets, layer, timestep, timesteps=visited)
        if shortcuts.readout != "latents":
            decode(latents if shortcuts.one_sided else latents[1:])

    whole, rest = divmod(passes, chunk_size)
    cost = Cost()
    for size, times in ((chunk_size, whole), (rest, 1)):
        if size and times:
            cost = cost + count(lambda: batch(size)) * times  # noqa: B023
    return cost
