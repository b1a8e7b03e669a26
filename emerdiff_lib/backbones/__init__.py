"""Families of diffusion models, a small class each; nothing else in the library knows an architecture's name."""

from __future__ import annotations

from diffusers import DiffusionPipeline

from .aura_flow import AuraFlow
from .base import Backbone, Condition, TextTokens
from .deepfloyd_if import DeepFloydIF
from .flux import Flux
from .hunyuan_dit import HunyuanDiT
from .kandinsky import Kandinsky
from .lumina2 import Lumina2
from .pixart import PixArt
from .qwen_image import QwenImage
from .sana import Sana
from .stable_diffusion import StableDiffusion
from .stable_diffusion_3 import StableDiffusion3
from .stable_diffusion_xl import Kolors, StableDiffusionXL
from .z_image import ZImage

BACKBONES: tuple[type[Backbone], ...] = (
    StableDiffusion,
    StableDiffusionXL,
    Kolors,
    Kandinsky,
    DeepFloydIF,
    StableDiffusion3,
    Flux,
    PixArt,
    Sana,
    QwenImage,
    AuraFlow,
    HunyuanDiT,
    ZImage,
    Lumina2,
)
__all__ = ["BACKBONES", "Backbone", "Condition", "TextTokens", "find_backbone"]


def find_backbone(pipe: DiffusionPipeline) -> Backbone:
    """The backbone that a pipeline belongs to.

    Raises:
        ValueError: it belongs to none.
    """
    for backbone in BACKBONES:
        if backbone.matches(pipe):
            return backbone(pipe)
    known = ", ".join(backbone.name for backbone in BACKBONES)
    raise ValueError(
        f"{type(pipe).__name__} is of no family that EmerDiff knows ({known}); use a model of one of these."
    )
