"""The loop around a training step: schedule, progress bar, log, sheets, and checkpoints that survive a kill."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from PIL import Image
from tqdm.auto import tqdm

from ..files import write_atomically


class Stage:
    """One training, of some modules at a time, in a folder of its own below ``args.output``.

    Args:
        modules: trained together.
        steps, rate, decay: number of steps, peak learning rate, weight decay of AdamW.
    """

    def __init__(
        self,
        name: str,
        args: argparse.Namespace,
        accelerator: Accelerator,
        modules: list[torch.nn.Module],
        steps: int,
        rate: float,
        decay: float,
    ):
        self.name, self.args, self.accelerator, self.steps = name, args, accelerator, steps
        self.folder = args.output / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.parameters = [p for module in modules for p in module.parameters()]
        optimizer = torch.optim.AdamW(self.parameters, lr=rate, betas=(0.9, 0.99), weight_decay=decay)
        prepared = accelerator.prepare(*modules, optimizer)
        self.modules, self.optimizer, self.rate = list(prepared[:-1]), prepared[-1], rate
        self.ema = EMAModel(self.parameters, decay=0.999, foreach=True)
        self.loss: float | None = None
        self.ema.to(accelerator.device)
        self.step, self.seconds = 0, 0.0
        self._resume()

    def _resume(self):
        pointer = self.folder / "latest.json"
        if pointer.exists():
            latest = json.loads(pointer.read_text())
            self.step, self.seconds, self.loss = latest["step"], latest["seconds"], latest.get("loss")
            self.accelerator.load_state(self.folder / latest["state"])
            self.ema.load_state_dict(
                torch.load(
                    self.folder / latest["state"] / "ema.pt",
                    map_location=self.accelerator.device,
                    weights_only=True,
                )
            )
            self.accelerator.print(f"{self.name}: resumed at step {self.step}")

    def save(self):
        if not self.accelerator.is_main_process:
            return
        state = f"step-{self.step}"
        self.accelerator.save_state(self.folder / state)
        torch.save(self.ema.state_dict(), self.folder / state / "ema.pt")
        latest = {"step": self.step, "seconds": self.seconds, "loss": self.loss, "state": state}
        write_atomically(self.folder / "latest.json", json.dumps(latest))
        for old in self.folder.glob("step-*"):
            if old.name != state:
                shutil.rmtree(old)

    def plain(self) -> list[torch.nn.Module]:
        """The modules as they were given, not spread over devices."""
        return [self.accelerator.unwrap_model(module) for module in self.modules]

    def learning_rate(self) -> float:
        rise = min(1.0, (self.step + 1) / max(self.args.warmup_steps, 1))
        fall = min(1.0, (self.steps - self.step) / max(self.args.cooldown * self.steps, 1))
        return self.rate * rise * fall

    @contextmanager
    def averaged_weights(self):
        """The modules with their exponential moving averages in place of the last step's weights."""
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        try:
            yield [module.eval() for module in self.plain()]
        finally:
            self.ema.restore(self.parameters)
            for module in self.plain():
                module.train()

    def run(self, loss_of_step: Callable, picture: Callable):
        """Train to the last step. ``loss_of_step(step, generator)`` → loss; ``picture(step)`` draws a sheet."""
        log, average, last = self.folder / "loss.jsonl", self.loss, time.perf_counter()
        bar = tqdm(
            total=self.steps,
            initial=min(self.step, self.steps),
            desc=self.name,
            disable=not self.accelerator.is_main_process,
        )
        while self.step < self.steps:
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate()
            # every draw is a function of seed, process and step, so that a resumed run repeats what it would have drawn
            key = np.random.SeedSequence((self.args.seed, self.accelerator.process_index, self.step))
            generator = torch.Generator(self.accelerator.device)
            generator.manual_seed(int(key.generate_state(1, np.uint64)[0] >> 1))
            loss = loss_of_step(self.step, generator)
            self.optimizer.zero_grad()
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.ema.step(self.parameters)
            self.step += 1
            value = loss.item()
            if not np.isfinite(value):
                raise RuntimeError(
                    f"{self.name}: the loss is {value} at step {self.step}; lower the learning rate."
                )
            average = self.loss = value if average is None else 0.98 * average + 0.02 * value
            self.seconds, last = self.seconds + time.perf_counter() - last, time.perf_counter()
            bar.set_postfix(loss=f"{average:.4f}", refresh=False)
            bar.update()
            if self.step % 20 == 0 and self.accelerator.is_main_process:
                with log.open("a") as file:
                    file.write(
                        json.dumps(
                            {"step": self.step, "loss": round(average, 5), "seconds": round(self.seconds)}
                        )
                        + "\n"
                    )
            if self.step % self.args.checkpoint_every == 0 or self.step == self.steps:
                self.save()
                with self.averaged_weights() as modules:
                    picture(self.step, *modules)
                last = time.perf_counter()
        bar.close()


def same_run(folder: Path, now: Mapping[str, str], usual: Mapping[str, str]) -> dict[str, str] | None:
    """What ``run.json`` keeps of the run that goes on in ``folder``, None where one begins.

    Args:
        now: what the run must have in common with its beginning; ``usual``: the same of options that are newer than that.

    Raises:
        ValueError: the folder holds a run of other settings.
    """
    path = folder / "run.json"
    if not path.exists():
        return None
    before = {**usual, **json.loads(path.read_text())}
    if wrong := [name for name in now if before[name] != now[name]]:
        raise ValueError(
            f"{folder} holds a run with --{wrong[0].replace('_', '-')} {before[wrong[0]]}, not {now[wrong[0]]}; "
            "choose another --output."
        )
    return before


def keep_run(folder: Path, now: Mapping[str, str]) -> None:
    """Write the ``run.json`` that :func:`same_run` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "run.json", json.dumps(dict(now), indent=1) + "\n")


def save_sheet(images: list[torch.Tensor], path: Path, columns: int = 8):
    """(3, H, W) tensors in [-1, 1] as one PNG."""
    tiles = [
        ((i.float().cpu().permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).numpy().astype(np.uint8)
        for i in images
    ]
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    Image.fromarray(np.vstack(rows)).save(path)
