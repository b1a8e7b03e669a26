"""Where in a network EmerDiff takes queries and where it modulates, as a diagram (notebook 01)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..backbones import Backbone
from ..plotting.diagrams import transformer_diagram, unet_diagram


def unet_levels(
    backbone: Backbone, height: int, width: int, roles: Mapping[str, str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The levels of a U-Net on (height, width) latents, and the block at its bottom, as ``unet_diagram`` draws them.

    Args:
        roles: {what is done there: name of a layer}; becomes the notes of the blocks on the way up.
    """
    layers = lambda block: sum(name.startswith(f"{block}.") for name in backbone.layers())
    channels, levels = backbone.denoiser.config.block_out_channels, []
    for level, count in enumerate(channels):
        down, up = f"down_blocks.{level}", f"up_blocks.{len(channels) - 1 - level}"
        drawn = {"grid": backbone.grid(down, height, width), "channels": count, "down": down, "up": up}
        drawn |= {"down_attention": layers(down), "up_attention": layers(up)}
        drawn["note"] = ", ".join(role for role, layer in roles.items() if layer.startswith(f"{up}."))
        levels.append(drawn)
    return levels, {"name": "mid_block", "attention": layers("mid_block")}


def draw_network(ax: Any, backbone: Backbone, height: int, width: int, roles: Mapping[str, str]) -> Any:
    """A network on (height, width) latents, and what is done where: a U-Net's levels, or a transformer's blocks.

    Args:
        ax: axes of matplotlib, which are given back.
        roles: {what is done there: name of a layer}.
    """
    if "mid_block" in backbone.blocks():
        return unet_diagram(ax, *unet_levels(backbone, height, width, roles))
    notes: dict[int, str] = {}
    for role, layer in roles.items():
        block = int(layer.split(".")[1])
        notes[block] = f"{notes[block]}, {role}" if block in notes else role
    channels = backbone.widest_maps(height, width)[0] // 4
    grid = backbone.grid("transformer_blocks.0", height, width)
    return transformer_diagram(ax, len(backbone.blocks()), grid, channels, notes)
