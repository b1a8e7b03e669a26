"""Which precision trains fastest here: bfloat16 is twice as fast as float32 on one CPU and four times slower on another."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

from . import architecture

PRECISIONS = ("no", "bf16", "fp16")


def fastest(size: int, batch_size: int, cpu: bool = False, steps: int = 3) -> tuple[str, dict[str, float]]:
    """("no" or "bf16", {precision: pictures a second}): a few training steps of the U-Net in each."""
    here = None if cpu else torch.accelerator.current_accelerator()
    device = here or torch.device("cpu")
    unet = architecture.build_unet(size).to(device, memory_format=torch.channels_last)
    noisy = torch.randn(batch_size, 8, size // 4, size // 4, device=device)
    noisy = noisy.contiguous(memory_format=torch.channels_last)
    text = torch.randn(batch_size, architecture.MAX_TOKENS, 64, device=device)
    timesteps = torch.zeros(batch_size, dtype=torch.long, device=device)
    rates = {}
    for precision in ("no", "bf16"):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            for step in range(steps + 1):
                if step == 1:  # the first one compiles kernels and fills caches
                    _wait(device)
                    start = time.perf_counter()
                prediction = unet(noisy, timesteps, text).sample
                F.mse_loss(prediction.float(), noisy).backward()
        _wait(device)
        rates[precision] = steps * batch_size / (time.perf_counter() - start)
    return max(rates, key=lambda name: rates[name]), rates


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
