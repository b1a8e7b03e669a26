"""Stable Diffusion 1.x and 2.x with what was made of them (LCM, Turbo, distilled ones), and any U-Net of that kind."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import nn

from .base import Backbone, Condition, as_written

IP_ADAPTER = "ip_image_proj"
CELLS = 16  # on a side of the grid that the paper takes queries from
# Chosen on validation scenes (notebooks/results/defaults.json)
TOYSCAPES = {"num_masks": 12, "feature_timestep": 281, "modulation_timestep": 481, "noise_ensemble_size": 8}


class StableDiffusion(Backbone):
    """A U-Net with cross-attention to one text encoder's tokens.

    Attributes:
        level: whose grid takes the place of the paper's 16 × 16 one; level i halves the latents' grid i times.
        additions: what the U-Net is conditioned on besides, its (addition_embed_type, encoder_hid_dim_type).
    """

    name = "Stable Diffusion 1.x and 2.x"
    architecture = UNet2DConditionModel
    network, is_flow = "unet", False
    additions: tuple[str | None, str | None] = (None, None)

    def __init__(self, pipe: DiffusionPipeline):
        super().__init__(pipe)
        config, levels = self.denoiser.config, self._attending_levels()
        channels = config.in_channels
        if config.out_channels not in (channels, 2 * channels):  # some learn variances besides
            raise ValueError(
                f"This U-Net takes {channels} channels and gives {config.out_channels} (an inpainting or depth model?); use "
                "the text-to-image checkpoint that it was made from."
            )
        if channels == 8 and levels[:1] == [1]:
            self.name, self.level = "Toyscapes", 1
            self.own_defaults = TOYSCAPES | {"filter_sigma": 0.5}
        elif 2 in levels and channels in (3, 4):
            self.level = 2
            if type(self) is StableDiffusion:
                self.name = f"Stable Diffusion {2 if config.use_linear_projection else 1}.x"
        else:
            self.name, self.level = "U-Net of no known family", self._nearest_level()

    @classmethod
    def matches(cls, pipe: DiffusionPipeline) -> bool:
        if not super().matches(pipe):
            return False
        config = as_written(pipe.unet).config
        plain = config.class_embed_type is None and config.num_class_embeds is None
        kind = config.encoder_hid_dim_type
        if kind == IP_ADAPTER:  # which takes the place of what was there
            kind = "text_proj" if hasattr(as_written(pipe.unet), "text_encoder_hid_proj") else None
        return plain and (config.addition_embed_type, kind) == cls.additions

    @property
    def patch_size(self) -> int:
        return 2 ** (len(self.denoiser.config.block_out_channels) - 1)

    @property
    def size_multiple(self) -> int:
        """Cells of the paper's grid are whole; those of coarser levels only where blocks cannot resize them to the next."""
        plain = set(self.denoiser.config.up_block_types) <= {"UpBlock2D", "CrossAttnUpBlock2D"}
        return self.vae_scale_factor * (2**self.level if plain else self.patch_size)

    def condition(self, prompt: str) -> Condition:
        embeds, _ = self.pipe.encode_prompt(prompt, self.device, 1, False)
        condition = {"encoder_hidden_states": embeds.to(self.denoiser.dtype)}
        return condition | ({"added_cond_kwargs": adapters} if (adapters := self._no_images()) else {})

    def _no_images(self) -> dict[str, Any]:
        """Zeros for the image of each IP-Adapter that the user has loaded."""
        unet = self.denoiser
        if unet.config.encoder_hid_dim_type != IP_ADAPTER:
            return {}
        widths = [p.image_embeds.in_features for p in unet.encoder_hid_proj.image_projection_layers]
        zeros = [torch.zeros(1, 1, width, device=self.device, dtype=unet.dtype) for width in widths]
        return {"image_embeds": zeros}

    def call(self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
        output = self.denoiser(latents, timesteps, **self.rows(condition, len(latents))).sample
        return output[:, : latents.shape[1]]  # without variances

    def blocks(self) -> dict[str, nn.Module]:
        unet = self.denoiser
        down = {f"down_blocks.{i}": block for i, block in enumerate(unet.down_blocks)}
        middle = {"mid_block": unet.mid_block} if unet.mid_block is not None else {}
        return down | middle | {f"up_blocks.{i}": block for i, block in enumerate(unet.up_blocks)}

    def modules_before(self, layer: str) -> list[nn.Module]:
        """Among them every block's projection of the timestep, which rows have in common."""
        times = [m for name, m in self.denoiser.named_modules() if name.endswith(".time_emb_proj")]
        return super().modules_before(layer) + times

    def grid(self, layer: str, height: int, width: int) -> tuple[int, int]:
        block, index = layer.split(".")[:2]
        last = len(self.denoiser.config.block_out_channels) - 1
        level = int(index) if block == "down_blocks" else last - int(index) if block == "up_blocks" else last
        return -(-height // 2**level), -(-width // 2**level)

    def feature_map(self, module: str, output: Any) -> torch.Tensor:
        return output[0] if isinstance(output, tuple) else output

    def encoder_attention(self) -> str:
        """The encoder's last self-attention layer: 16 × 16 at 512 × 512 in Stable Diffusion 1.x.

        Raises:
            ValueError: if no block of the encoder attends.
        """
        layers = [name for name in self.self_attention() if name.startswith("down_blocks")]
        if not layers:
            raise ValueError(
                "This U-Net has no self-attention in its encoder (down_blocks), of which this baseline is made."
            )
        return layers[-1]

    def encoder_module(self) -> str:
        return super().encoder_module() + ".resnets.0"

    def default_layers(self) -> tuple[str, str]:
        """The first and the last layer of the upward block at ``level``, as the paper's."""
        names = self.layers()
        block = len(self.denoiser.config.block_out_channels) - 1 - self.level
        names = [name for name in names if name.startswith(f"up_blocks.{block}.")] or names
        if not names:
            raise ValueError(
                "This U-Net has no cross-attention, of which EmerDiff is made; use a text-to-image model."
            )
        return names[0], names[0 if self.name == "Toyscapes" else -1]

    def widest_maps(self, height: int, width: int) -> tuple[int, int]:
        return 4 * self.denoiser.config.block_out_channels[0], height * width  # with concatenated skips

    def _attending_levels(self) -> list[int]:
        """Levels whose upward blocks have cross-attention."""
        kinds = ("CrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D")
        return [i for i, kind in enumerate(reversed(self.denoiser.config.up_block_types)) if kind in kinds]

    def _nearest_level(self) -> int:
        """The level whose grid is nearest to the paper's."""
        sides = self.denoiser.config.sample_size
        side = min(sides) if isinstance(sides, list | tuple) else sides or 4 * CELLS
        distance = lambda level: abs(math.log(side / 2**level / CELLS))
        return min(self._attending_levels(), key=distance, default=0)
