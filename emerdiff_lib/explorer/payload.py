"""What the explorer's page holds: responses, cells, superpixels and their groupings for every K, small enough to travel."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from io import BytesIO
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ..pixels import COLOUR, FLOOR
from ..plotting import segment_palette
from ..responses import ImageResponses, quantise
from ..settings import whole

MOST_CODES = 700_000  # numbers, a byte each: about a megabyte as text
MOST_SEGMENTS = 40


def payload(responses: ImageResponses, numbers: Iterable[int] | None = None) -> dict[str, Any]:
    """For :file:`explorer.js`: {"header": plain values, "arrays": {name: {"dtype", "base64"}}}.

    The responses are brought to a coarser grid of pixels where they would be too many, and quantised again; labels are not.

    Args:
        numbers: of segments, K, to choose from; by default 2 to 40.

    Raises:
        ValueError: a number that is no whole one of at least 2 and at most 255.
    """
    numbers = sorted({whole(2, 255)("number of segments", k) for k in numbers or range(2, MOST_SEGMENTS + 1)})
    height, width = responses.processing_size
    signed = torch.cat(list(responses.decoded()), 2).unflatten(2, responses.codes.shape[2:])
    share = min(1.0, (MOST_CODES / signed.numel()) ** 0.5)
    size = [max(1, int(side * share)) for side in signed.shape[2:]]
    codes, scales = quantise(F.interpolate(signed, size=size, mode="area"))
    grid = responses.parts.shape[1:]
    colours, cells = (F.adaptive_avg_pool2d(responses.guide, tuple(s)) * 255 for s in (size, grid))
    superpixels = responses.superpixels()
    first = np.unique(superpixels.labels, return_index=True)[1]  # a pixel of each superpixel
    groups = [superpixels.segments(k).ravel()[first] for k in numbers]
    usual = responses.settings.features.num_masks
    arrays = {
        "codes": codes.numpy(),
        "scales": scales.numpy(),
        "colours": colours.round().to(torch.uint8).numpy(),
        "cellColours": cells.round().to(torch.uint8).numpy(),
        "partOfCell": responses.parts.int().argmax(0).numpy().astype(np.uint16),
        "cellsOfPart": responses.parts.sum((1, 2)).numpy().astype(np.uint16),
        "superpixels": superpixels.labels.astype(np.uint16),
        "groups": np.stack(groups).astype(np.uint8),
        "palette": segment_palette(max(numbers)).astype(np.uint8),
    }
    header = {
        "size": [height, width],
        "codesSize": size,
        "grid": list(grid),
        "parts": len(responses.parts),
        "regions": len(superpixels.areas),
        "numbers": numbers,
        "k": min(numbers, key=lambda k: abs(k - usual)),
        "floor": FLOOR,
        "colourWidth": COLOUR,
        "picture": _as_url(responses.image.resize((width, height))),
    }
    return {"header": header, "arrays": {name: _encoded(array) for name, array in arrays.items()}}


def _encoded(array: np.ndarray) -> dict[str, str]:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return {"dtype": array.dtype.name, "base64": base64.b64encode(little.tobytes()).decode("ascii")}


def _as_url(image: Image.Image) -> str:
    """Without loss where it is small."""
    small, buffer = image.width * image.height <= 256**2, BytesIO()
    image.convert("RGB").save(
        buffer, *(("PNG",) if small else ("JPEG",)), **({} if small else {"quality": 90})
    )
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
