"""The network that denoises, together with its text encoders, in the latents of a finished autoencoder."""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from transformers import PreTrainedTokenizerFast

from . import architecture
from .backbones import Backbone, Networks
from .packaging import export
from .sources import Latents, encode, epoch_of
from .stage import Stage, save_sheet


def train_denoiser(
    args: argparse.Namespace,
    accelerator: Accelerator,
    vae: AutoencoderKL,
    backbone: Backbone,
    tokenizer: PreTrainedTokenizerFast,
    latents: Latents,
) -> tuple[Networks, Stage]:
    """Most timesteps from [0, 1000), some from [0, 400); returns the averages and their stage."""
    modules = list(backbone.networks.values())
    stage = Stage("denoiser", args, accelerator, modules, args.steps, args.learning_rate, 1e-2)
    named = lambda modules: dict(zip(backbone.networks, modules, strict=True))
    scale, device = vae.config.scaling_factor, accelerator.device
    tokens_of = Tokens(tokenizer, device)

    def loss_on(modules, known, tokens, generator):
        """Of as many latents as there are rows of tokens, drawn with the noise, its timesteps and the captions left out."""
        count, here = len(tokens), dict(generator=generator, device=device)
        mean, std = known.to(device).float().unbind(1)
        clean = (mean + std * torch.randn(mean.shape, **here)) * scale
        noise = torch.randn(mean.shape, **here)
        uniform, low = (torch.randint(limit, (count,), **here) for limit in (1000, 400))
        timesteps = torch.where(torch.rand(count, **here) < args.low_timesteps, low, uniform)
        dropped = torch.rand(count, **here) < args.empty_captions
        text = torch.where(dropped[:, None], tokens_of.empty, tokens)
        return backbone.loss(named(modules), (clean, noise), timesteps, text, accelerator.autocast())

    def loss_of_step(step, generator):
        epoch = epoch_of(step, args.batch_size, latents.source)
        known, captions = latents.epoch(epoch)
        rows = torch.randint(len(known), (args.batch_size,), generator=generator, device=device)
        tokens = tokens_of(captions)[rows]
        return loss_on(stage.modules, known[rows.to(known.device)], tokens, generator)

    held_out, their_captions = latents.source.held_out()
    log = stage.folder / "held-out.jsonl"

    @torch.no_grad()
    def losses(modules):
        """Of the held-out pictures (their central squares) and of as many of an epoch's (crops, as they are trained on)."""
        epoch = epoch_of(max(stage.step - 1, 0), args.batch_size, latents.source)
        known, captions = latents.epoch(epoch)
        rows = torch.linspace(0, len(known) - 1, len(held_out)).long()
        own = known[rows.to(known.device)], tokens_of(captions)[rows.to(device)]
        others = encode(vae, held_out, accelerator), tokens_of(their_captions)
        found = []
        for part in (others, own):
            generator, sums = torch.Generator(device).manual_seed(args.seed), 0.0
            for some, tokens in zip(*(data.split(args.batch_size) for data in part), strict=True):
                repeated = (data.repeat_interleave(4, 0) for data in (some, tokens))
                sums += loss_on(modules, *repeated, generator).item() * len(tokens)
            found.append(sums / len(held_out))
        return {"held_out": round(found[0], 5), "trained_on": round(found[1], 5)}

    def picture(step, *averaged):
        if len(held_out) and accelerator.is_main_process:
            with log.open("a") as file:
                file.write(json.dumps({"step": step, **losses(averaged)}) + "\n")
        pipeline = backbone.pipeline(vae, tokenizer, named(averaged))
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        with accelerator.autocast():
            images = pipeline(
                latents.source.captions(8),
                num_inference_steps=20,
                guidance_scale=3.0,
                generator=generator,
                output_type="pt",
                **backbone.options,
            ).images
        save_sheet([*(images.float() * 2 - 1)], stage.folder / f"samples-{step:06}.png")
        export(args.output / "model", backbone, vae, tokenizer, named(averaged))

    stage.run(loss_of_step, picture)
    stage.ema.copy_to(stage.parameters)
    return named([module.eval() for module in stage.plain()]), stage


class Tokens:
    """Token ids of an epoch's captions, (N, 64) int64 on the device; each caption is read once."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, device: torch.device):
        self.tokenizer, self.device = tokenizer, device
        self.empty = architecture.tokenize(tokenizer, [""]).to(device)
        self._last: tuple[list[str], torch.Tensor] | None = None

    def __call__(self, captions: list[str]) -> torch.Tensor:
        if self._last is None or self._last[0] is not captions:
            unique, inverse = np.unique(captions, return_inverse=True)
            ids = architecture.tokenize(self.tokenizer, unique.tolist())[torch.from_numpy(inverse)]
            self._last = captions, ids.to(self.device)
        return self._last[1]
