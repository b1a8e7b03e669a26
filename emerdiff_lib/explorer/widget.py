"""The explorer: a widget for JupyterLab, VS Code and Colab, and one HTML page that needs no kernel, no server and no network.

Both hold responses, cells, superpixels and their groupings for every K, small enough to travel.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import torch
import torch.nn.functional as F
import traitlets
from PIL import Image

from ..files import write_atomically
from ..images import ImageInput
from ..pipeline import EmerDiffPipeline
from ..pixels import COLOUR, FLOOR
from ..plotting import segment_palette
from ..responses import ImageResponses, quantise
from ..settings import whole

HERE = Path(__file__).parent
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
    usual = responses.settings.num_masks
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


def page(
    responses: ImageResponses, numbers: Iterable[int] | None = None, title: str = "EmerDiff explorer"
) -> str:
    """A whole HTML document of about two megabytes; ``numbers`` of segments as for :func:`payload`."""
    script, style = ((HERE / f"explorer.{kind}").read_text("utf-8") for kind in ("js", "css"))
    script = script.replace("export default { render };", "").replace(
        "export function mount", "function mount"
    )
    data = json.dumps(payload(responses, numbers), separators=(",", ":"))
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title><style>{style}</style></head>
<body><h1>{html.escape(title)}</h1><div id="explorer"></div>
<script type="application/json" id="data">{data}</script>
<script type="module">
{script}
window.explorer = mount(document.getElementById("explorer"), JSON.parse(document.getElementById("data").textContent));
</script></body></html>
"""


def save_page(
    responses: ImageResponses,
    path: Path | str,
    numbers: Iterable[int] | None = None,
    title: str = "EmerDiff explorer",
) -> Path:
    """Write :func:`page` to ``path`` (folders are made) and return it."""
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page(responses, numbers, title))
    return path


class Explorer(anywidget.AnyWidget):
    """A picture and what follows from its responses: segments for any K, cells behind a pixel, pixels behind a cell, own masks.

    All of it is computed where it is shown; the kernel is asked for nothing. Shown outside of a live notebook (exported HTML, a
    forge), it is the page of :func:`page`.

    Args:
        responses: of one picture, from ``pipe.probe(pipe.cluster(image, mode="pixel"))``.
        numbers: of segments to choose from, see :func:`payload`.
    """

    _esm = HERE / "explorer.js"
    _css = HERE / "explorer.css"
    data = traitlets.Dict().tag(sync=True)

    def __init__(self, responses: ImageResponses, numbers: Iterable[int] | None = None, **kwargs: Any):
        self.responses, self.numbers = responses, None if numbers is None else list(numbers)
        super().__init__(data=payload(responses, self.numbers), **kwargs)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        frame = html.escape(page(self.responses, self.numbers), quote=True)
        style = "width: 100%; height: 40rem; border: 0"
        text = f'<iframe srcdoc="{frame}" title="EmerDiff explorer" style="{style}"></iframe>'
        return data | {"text/html": text}, metadata


@torch.no_grad()
def explore(
    pipe: EmerDiffPipeline,
    image: ImageInput,
    numbers: Iterable[int] | None = None,
    *,
    generator: torch.Generator | None = None,
    **settings: Any,
) -> Explorer:
    """Segment a picture in pixel mode and show its :class:`Explorer`.

    Args:
        image: as for the pipeline; ``numbers``: as for :class:`Explorer`.
        generator: source of the inversion noise and of k-means' seed.
        **settings: of the pipeline.
    """
    coarse = pipe.cluster(image, generator=generator, **({"mode": "pixel"} | settings))
    return Explorer(pipe.probe(coarse), numbers)
