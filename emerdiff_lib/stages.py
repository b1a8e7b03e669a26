"""What the pipeline's stages hand on: coarse masks, responses, and the segmentation at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image

from .images import to_tensor
from .inversion import Trajectory
from .settings import Settings


@dataclass(repr=False)
class CoarseMasks:
    """Sec. 3.1: an inverted image, what the network knows about each cell of a coarse grid, and the masks made of it.

    Attributes:
        trajectory: the inverted image.
        queries: (h, w, d) float32, query vectors of the feature layer.
        masks: (K, h, w) bool, a partition of the grid unless they are the caller's own.
        embeddings: (K, d) float32, mean query vector of each mask.
        settings: all settings, of later stages too.
        processing_size: (height, width) at which the image was encoded.
        clustered: bytes of the masks that were made of the queries; none of the caller's own.
        seconds: spent in each stage so far.
        made_by: of responses, the model, its dtype, device and autocast when they were computed.
    """

    trajectory: Trajectory
    queries: torch.Tensor
    masks: torch.Tensor
    embeddings: torch.Tensor
    settings: Settings
    processing_size: tuple[int, int]
    clustered: bytes = b""
    seconds: dict[str, float] = field(default_factory=dict)
    made_by: dict[str, Any] = field(default_factory=dict)

    @property
    def own_masks(self) -> bool:
        """Whether the masks are the caller's: given, or changed since."""
        return np.asarray(self.masks).tobytes() != self.clustered

    @property
    def image(self) -> Image.Image:
        """The image, at its own size."""
        if self.trajectory.image is None:
            raise ValueError("This trajectory carries no image; make it with pipe.invert(image).")
        return self.trajectory.image

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image, and of its labels."""
        return self.image.height, self.image.width

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) cells."""
        return self.queries.shape[0], self.queries.shape[1]

    @property
    def cell(self) -> float:
        """Height of a cell in pixels of the processing size."""
        return self.processing_size[0] / self.grid[0]

    @property
    def guide(self) -> torch.Tensor:
        """(3, H, W) the image in [0, 1] at its processing size."""
        return to_tensor(self.image, self.processing_size)[0] / 2 + 0.5

    def __repr__(self) -> str:
        shapes = {name: value.shape for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        of = [f"{name} {' × '.join(map(str, shape))}" for name, shape in shapes.items()]
        return f"{type(self).__name__}({', '.join(of)})"


@dataclass(repr=False)
class Responses(CoarseMasks):
    """Sec. 3.2: how strongly each mask moves each pixel, beside what the stage before has.

    Attributes:
        difference_maps: (K, H, W) float32 on the CPU, unfiltered, at the processing size and in [0, √3]; at the size of
            the latents and in their units where latents were compared.
    """

    difference_maps: torch.Tensor = field(kw_only=True)


@dataclass
class EmerDiffOutput(BaseOutput):
    """The segmentation of one image of size (H, W).

    Attributes:
        labels: (H, W) int32, the index of the coarse mask that moves each pixel most, or of its segment.
        baseline_labels: (H, W) int32, the same masks upsampled bilinearly.
        coarse_masks: (K, h, w) bool, a partition of the feature grid; where pixels have features of their own, the cells that
            lie in each segment for the most part, which may be none.
        mask_embeddings: (K, d) float32, mean query vector of each mask, or segment.
        difference_maps: (K, H, W) float32, unfiltered: in [0, √3], or in the units of the latents where those were
            compared; None unless asked for.
        settings: every setting that led here, JSON-serialisable.
        timings: seconds spent in each stage.
    """

    labels: np.ndarray
    baseline_labels: np.ndarray
    coarse_masks: np.ndarray
    mask_embeddings: np.ndarray
    difference_maps: np.ndarray | None
    settings: dict[str, Any]
    timings: dict[str, float]

    def __repr__(self) -> str:
        height, width = self.labels.shape
        return f"EmerDiffOutput({len(self.coarse_masks)} masks, labels {height} × {width})"


def check_masks(masks: Any, image: Image.Image | None) -> torch.Tensor:
    """Masks of the caller's as (K, h, w) bool.

    Raises:
        ValueError: for any other shape, values other than 0 and 1, or an empty mask; and for masks (K, W, H) of an image
            (H, W): of the stored one, whose EXIF turns it, or transposed.
    """
    try:
        masks = torch.as_tensor(masks)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"coarse_masks are a (K, h, w) array of 0 and 1, not {type(masks).__name__}: {error}"
        ) from error
    if masks.ndim != 3 or len(masks) == 0:
        raise ValueError(f"coarse_masks have shape (K, h, w) with K ≥ 1, not {tuple(masks.shape)}.")
    wrong = ~((masks == 0) | (masks == 1))  # NaN as well
    if bool(wrong.any()):
        raise ValueError(
            f"coarse_masks hold {masks[wrong][0].item()!r}, where only 0 and 1 mean anything; threshold soft masks, and "
            "split a label map into one mask per label: labels == np.arange(K)[:, None, None]."
        )
    masks = masks.bool().cpu().clone()
    if not bool(masks.flatten(1).any(1).all()):
        raise ValueError("coarse_masks hold a mask without any cell; leave it out.")
    size = tuple(masks.shape[1:])
    if image is not None and size == image.size and image.width != image.height:
        raise ValueError(f"coarse_masks are of {size}, the image of {size[::-1]}: turn or transpose them.")
    return masks
