"""Which precision trains fastest here: bfloat16 is twice as fast as float32 on one CPU and four times slower on another."""

from __future__ import annotations

import time

import torch

from . import architecture
from .backbones import Backbone

PRECISIONS = ("no", "bf16", "fp16")


def fastest(
    backbone: Backbone, size: int, batch_size: int, cpu: bool = False, steps: int = 3
) -> tuple[str, dict[str, float]]:
    """("no" or "bf16", {precision: pictures a second}): a few training steps of the networks in each."""
    here = None if cpu else torch.accelerator.current_accelerator()
    device = here or torch.device("cpu")
    networks = {name: network.to(device) for name, network in backbone.networks.items()}
    clean, noise = torch.randn(2, batch_size, 8, size // 4, size // 4, device=device)
    tokens = torch.full((batch_size, architecture.MAX_TOKENS), 3, device=device)
    timesteps = torch.full((batch_size,), 500, device=device)
    rates = {}
    for precision in ("no", "bf16"):
        for step in range(steps + 1):
            if step == 1:  # the first one compiles kernels and fills caches
                _wait(device)
                start = time.perf_counter()
            half = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
            backbone.loss(networks, (clean, noise), timesteps, tokens, half).backward()
        _wait(device)
        rates[precision] = steps * batch_size / (time.perf_counter() - start)
    return max(rates, key=lambda name: rates[name]), rates


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
