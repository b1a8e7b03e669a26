"""Train the Toyscapes model: ``python -m emerdiff_lib.toyscapes.train --output runs/toyscapes``.

One command, four stages: draw the training scenes, train the autoencoder, encode every scene once, train the U-Net
together with the text encoder; then export a diffusers folder. Every stage resumes after a kill. No label takes part.

Runs on whatever ``accelerate`` finds: a GPU, or the CPU.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import EMAModel
from PIL import Image
from tqdm.auto import tqdm

from ..files import write_atomically
from . import architecture
from .cache import encode_scenes, render_scenes, to_model_range
from .packaging import export, load_weights


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/toyscapes"), help="holds all that a run writes"
    )
    parser.add_argument(
        "--init-from", type=Path, help="diffusers folder to start from: fresh optimiser, short warm-up"
    )
    parser.add_argument(
        "--num-scenes", type=int, default=24_000, help="training scenes drawn and encoded once"
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--autoencoder-steps", type=int, default=1300)
    parser.add_argument("--autoencoder-learning-rate", type=float, default=2e-3)
    parser.add_argument(
        "--steps", type=int, default=6000, help="training steps of the U-Net and the text encoder"
    )
    parser.add_argument("--learning-rate", type=float, default=8e-4, help="1.5e-3 diverges")
    parser.add_argument("--warmup-steps", type=int, default=200)
    parser.add_argument(
        "--cooldown", type=float, default=0.5, help="last share of the steps, in which the rate decays"
    )
    parser.add_argument(
        "--empty-captions", type=float, default=0.12, help="share of captions that are left out"
    )
    parser.add_argument(
        "--low-timesteps",
        type=float,
        default=0.3,
        help="share drawn from [0, 400), where features are read; the others from all",
    )
    parser.add_argument(
        "--checkpoint-every", type=int, default=250, help="steps between checkpoints and sample sheets"
    )
    parser.add_argument("--mixed-precision", choices=("no", "bf16", "fp16"), default="bf16")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU even if there is a GPU")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


class Stage:
    """The loop around a training step: schedule, progress bar, log, and checkpoints that survive a kill."""

    def __init__(
        self, name: str, args, accelerator: Accelerator, modules: list, steps: int, rate: float, decay: float
    ):
        self.name, self.args, self.accelerator, self.steps = name, args, accelerator, steps
        self.folder = args.output / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.parameters = [p for module in modules for p in module.parameters()]
        optimizer = torch.optim.AdamW(self.parameters, lr=rate, betas=(0.9, 0.99), weight_decay=decay)
        prepared = accelerator.prepare(*modules, optimizer)
        self.modules, self.optimizer, self.rate = list(prepared[:-1]), prepared[-1], rate
        self.ema = EMAModel(self.parameters, decay=0.999, foreach=True)
        self.ema.to(accelerator.device)
        self.step, self.seconds = 0, 0.0
        self._resume()

    def _resume(self):
        pointer = self.folder / "latest.json"
        if pointer.exists():
            latest = json.loads(pointer.read_text())
            self.step, self.seconds = latest["step"], latest["seconds"]
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
        latest = {"step": self.step, "seconds": self.seconds, "state": state}
        write_atomically(self.folder / "latest.json", json.dumps(latest))
        for old in self.folder.glob("step-*"):
            if old.name != state:
                shutil.rmtree(old)

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
            yield [self.accelerator.unwrap_model(module).eval() for module in self.modules]
        finally:
            self.ema.restore(self.parameters)
            for module in self.modules:
                module.train()

    def run(self, loss_of_step, picture):
        """Train to the last step. ``loss_of_step(step, generator)`` → loss; ``picture(step)`` draws a sheet."""
        log, average, last = self.folder / "loss.jsonl", None, time.perf_counter()
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
            generator = torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0] >> 1))
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
            average = value if average is None else 0.98 * average + 0.02 * value
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


def gradients(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return images.diff(dim=-1), images.diff(dim=-2)


def train_autoencoder(args, accelerator: Accelerator, vae, pictures: np.ndarray):
    """L1 of the picture + 0.5 · L1 of its gradients + 0.001 · KL; returns the averaged model in eval mode."""
    stage = Stage(
        "autoencoder", args, accelerator, [vae], args.autoencoder_steps, args.autoencoder_learning_rate, 1e-4
    )
    model = stage.modules[0]

    def loss_of_step(step, generator):
        rows = torch.randint(len(pictures), (args.batch_size,), generator=generator).sort().values.numpy()
        images = to_model_range(pictures[rows], accelerator.device)
        images = images.flip(-1) if step % 2 else images
        with accelerator.autocast():
            posterior = accelerator.unwrap_model(model).encode(images).latent_dist
            decoded = accelerator.unwrap_model(model).decode(posterior.sample(generator)).sample.float()
        edges = sum(F.l1_loss(a, b) for a, b in zip(gradients(decoded), gradients(images), strict=True))
        return (
            F.l1_loss(decoded, images)
            + 0.5 * edges
            + 1e-3 * posterior.kl().mean() / posterior.mean[0].numel()
        )

    @torch.inference_mode()
    def picture(step, averaged):
        images = to_model_range(pictures[:16], accelerator.device)
        decoded = averaged.decode(averaged.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
        psnr = -10 * torch.log10((decoded - images).square().mean((1, 2, 3)) / 4).mean()
        save_sheet([*images, *decoded], stage.folder / f"reconstructions-{step:06}-{psnr:.1f}dB.png")

    stage.run(loss_of_step, picture)
    stage.ema.copy_to(stage.parameters)
    return accelerator.unwrap_model(model).eval().requires_grad_(False)


def train_denoiser(args, accelerator: Accelerator, vae, unet, text_encoder, tokenizer, latents, captions):
    """ε-prediction, most timesteps from [0, 1000), some from [0, 400); returns the averaged U-Net and encoder."""
    stage = Stage("denoiser", args, accelerator, [unet, text_encoder], args.steps, args.learning_rate, 1e-2)
    model, encoder = stage.modules
    tokens, empty = architecture.tokenize(tokenizer, captions), architecture.tokenize(tokenizer, [""])
    scheduler, scale, device = (
        architecture.training_scheduler(),
        vae.config.scaling_factor,
        accelerator.device,
    )

    def loss_of_step(step, generator):
        batch = args.batch_size
        rows = torch.randint(len(latents), (batch,), generator=generator)
        mean, std = latents[rows].float().unbind(1)
        clean = (mean + std * torch.randn(mean.shape, generator=generator)) * scale
        noise = torch.randn(mean.shape, generator=generator)
        uniform, low = (torch.randint(limit, (batch,), generator=generator) for limit in (1000, 400))
        timesteps = torch.where(torch.rand(batch, generator=generator) < args.low_timesteps, low, uniform)
        dropped = torch.rand(batch, generator=generator) < args.empty_captions
        text = torch.where(dropped[:, None], empty, tokens[rows]).to(device)
        noisy = scheduler.add_noise(clean, noise, timesteps).to(device, memory_format=torch.channels_last)
        with accelerator.autocast():
            prediction = model(noisy, timesteps.to(device), encoder(text).last_hidden_state).sample
        return F.mse_loss(prediction.float(), noise.to(device))

    def picture(step, averaged_unet, averaged_encoder):
        pipeline = StableDiffusionPipeline(
            vae=vae,
            text_encoder=averaged_encoder,
            tokenizer=tokenizer,
            unet=averaged_unet,
            scheduler=architecture.sampling_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        with accelerator.autocast():
            images = pipeline(
                captions[:8],
                num_inference_steps=20,
                guidance_scale=3.0,
                generator=generator,
                output_type="pt",
            ).images
        save_sheet([*(images.float() * 2 - 1)], stage.folder / f"samples-{step:06}.png")
        export(args.output / "model", vae, averaged_unet, averaged_encoder, tokenizer)

    stage.run(loss_of_step, picture)
    stage.ema.copy_to(stage.parameters)
    return tuple(accelerator.unwrap_model(module).eval() for module in stage.modules)


def save_sheet(images: list[torch.Tensor], path: Path, columns: int = 8):
    """(3, H, W) tensors in [-1, 1] as one PNG."""
    tiles = [
        ((i.float().cpu().permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).numpy().astype(np.uint8)
        for i in images
    ]
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    Image.fromarray(np.vstack(rows)).save(path)


def main(argv: list[str] | None = None):
    args = arguments(argv)
    accelerator = Accelerator(mixed_precision=args.mixed_precision, cpu=args.cpu)
    torch.manual_seed(args.seed)
    with accelerator.main_process_first():
        pictures, captions = render_scenes(args.output, args.num_scenes)

    tokenizer = architecture.build_tokenizer()
    vae, unet, text_encoder = (
        architecture.build_autoencoder(),
        architecture.build_unet(),
        architecture.build_text_encoder(),
    )
    if args.init_from is not None:
        load_weights(args.init_from, vae=vae, unet=unet, text_encoder=text_encoder)
    vae, unet = (module.to(memory_format=torch.channels_last) for module in (vae, unet))

    vae = train_autoencoder(args, accelerator, vae, pictures)
    with accelerator.main_process_first():
        latents = encode_scenes(args.output / "latents.pt", vae, pictures, accelerator)
    vae.register_to_config(scaling_factor=1 / latents[:2000, 0].float().std().item())
    accelerator.free_memory()

    unet, text_encoder = train_denoiser(
        args, accelerator, vae, unet, text_encoder, tokenizer, latents, captions
    )
    if accelerator.is_main_process:
        folder = export(args.output / "model", vae, unet, text_encoder, tokenizer)
        size = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6
        accelerator.print(f"exported {folder} ({size:.1f} MB of fp16 safetensors)")


if __name__ == "__main__":
    main()
