"""Toyscapes: a procedural world with exact labels, and the small latent diffusion model that was trained on it."""

from .scenes import Scene, Toyscapes

__all__ = ["Scene", "Toyscapes"]
