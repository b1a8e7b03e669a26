"""The one training loop: schedule, progress bar, log, averaged weights, and checkpoints that survive a kill."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from tqdm.auto import tqdm

from ..files import write_atomically
from .config import Config


@dataclass
class Progress:
    """How far a stage has come: steps, seconds of wall time, the running mean of the loss, and what its last report measured."""

    step: int = 0
    seconds: float = 0.0
    loss: float | None = None
    measures: dict[str, float] = field(default_factory=dict)


def train(
    name: str,
    config: Config,
    accelerator: Accelerator,
    modules: Sequence[torch.nn.Module],
    steps: int,
    peak_rate: float,
    weight_decay: float,
    loss_of_step: Callable[[int, torch.Generator], torch.Tensor],
    report: Callable[[int], dict[str, float]],
) -> Progress:
    """Train modules together, by AdamW, from the last checkpoint on; they end as their averages, in eval mode.

    Args:
        name: of the stage, and of its folder below ``config.output``.
        loss_of_step: the loss of a step (from 0) whose random numbers are the generator's, a function of seed and step: a
            resumed run repeats what it would have drawn.
        report: called with the number of steps done at every checkpoint, while the modules hold their averages; returns what
            it measured, which is logged.

    Raises:
        RuntimeError: the loss is not finite.
    """
    folder = config.output / name
    folder.mkdir(parents=True, exist_ok=True)
    modules = torch.nn.ModuleList(modules)
    parameters = list(modules.parameters())
    optimizer = torch.optim.AdamW(parameters, peak_rate, betas=(0.9, 0.99), weight_decay=weight_decay)
    accelerator.free_memory()  # a checkpoint holds this stage alone
    *_, optimizer = accelerator.prepare(*modules, optimizer)  # which changes the modules in place
    average = EMAModel(parameters, decay=0.999, foreach=True)
    average.to(accelerator.device)
    progress = resume(accelerator, folder, average)
    clock = time.perf_counter()
    with tqdm(total=steps, initial=min(progress.step, steps), desc=name) as bar:
        while progress.step < steps:
            # the rate rises over the warm-up, and falls to 0 over the last share of the steps
            rise = (progress.step + 1) / max(config.warmup_steps, 1)
            fall = (steps - progress.step) / max(config.cooldown * steps, 1)
            for group in optimizer.param_groups:
                group["lr"] = peak_rate * (min(1.0, rise) * min(1.0, fall))
            key = np.random.SeedSequence((config.seed, 0, progress.step)).generate_state(1, np.uint64)
            generator = torch.Generator(accelerator.device).manual_seed(int(key[0] >> np.uint64(1)))
            loss = loss_of_step(progress.step, generator)
            optimizer.zero_grad()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            average.step(parameters)
            progress.step += 1
            value = loss.item()
            if not np.isfinite(value):
                raise RuntimeError(
                    f"{name}: the loss is {value} at step {progress.step}; lower the learning rate."
                )
            progress.loss = value if progress.loss is None else 0.98 * progress.loss + 0.02 * value
            progress.seconds, clock = progress.seconds + time.perf_counter() - clock, time.perf_counter()
            bar.set_postfix(loss=f"{progress.loss:.4f}", refresh=False)
            bar.update()
            if progress.step % 20 == 0:
                log(folder, progress, loss=round(progress.loss, 5), seconds=round(progress.seconds))
            if progress.step % config.checkpoint_every == 0 or progress.step == steps:
                average.store(parameters)
                average.copy_to(parameters)
                modules.eval()
                progress.measures = report(progress.step)
                log(folder, progress, **progress.measures)
                average.restore(parameters)
                modules.train()
                save(accelerator, folder, average, progress)
                clock = time.perf_counter()
    average.copy_to(parameters)
    modules.eval()
    return progress


def log(folder: Path, progress: Progress, **values: float) -> None:
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps({"step": progress.step, **values}) + "\n")


def save(accelerator: Accelerator, folder: Path, average: EMAModel, progress: Progress) -> None:
    """Write a checkpoint beside the last one, then point to it, then delete the last one: a kill leaves one that is whole."""
    state = folder / f"step-{progress.step}"
    accelerator.save_state(state)
    torch.save(average.state_dict(), state / "ema.pt")
    write_atomically(folder / "latest.json", json.dumps(asdict(progress)))
    for old in folder.glob("step-*"):
        if old != state:
            shutil.rmtree(old)


def resume(accelerator: Accelerator, folder: Path, average: EMAModel) -> Progress:
    """Load the checkpoint that the folder points to, if there is one."""
    pointer = folder / "latest.json"
    if not pointer.exists():
        return Progress()
    progress = Progress(**json.loads(pointer.read_text()))
    state = folder / f"step-{progress.step}"
    accelerator.load_state(state)
    weights = torch.load(state / "ema.pt", map_location=accelerator.device, weights_only=True)
    average.load_state_dict(weights)
    print(f"{folder.name}: resumed at step {progress.step}")
    return progress
