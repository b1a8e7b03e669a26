"""The explorer: a widget for JupyterLab, VS Code and Colab, and one HTML page that needs no kernel, no server and no network.

Both hold responses, cells, superpixels and their groupings for every K, small enough to travel.
"""

from __future__ import annotations

import base64
import html
import json
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import torch
import torch.nn.functional as F
import traitlets

from ..colours import segment_palette
from ..files import write_atomically
from ..images import ImageInput
from ..pipeline import EmerDiffPipeline
from ..pixels import COLOUR, FLOOR
from ..responses import ImageResponses, quantise
from ..settings import NAMES, Settings

HERE = Path(__file__).parent
SCRIPT = "\n".join((HERE / f"{name}.js").read_text("utf-8") for name in ("responses", "explorer"))
MOST_CODES = 700_000  # numbers, a byte each before they are compressed
NUMBERS = range(2, 41)  # of segments, K, to choose from
SHOWN = 1280  # pixels of the longer side of an image that is shown; files are of its own size


def payload(responses: ImageResponses, source: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """For :file:`responses.js`: {"header": plain values, "arrays": {name: {"dtype", "zlib"}}}.

    The responses are brought to a coarser grid of pixels where they would be too many, and quantised again; labels are not.

    Args:
        source: :func:`source_of` the responses, for files that are taken out.
    """
    signed = torch.cat(list(responses.decoded()), 2).unflatten(2, responses.codes.shape[2:])
    share = min(1.0, (MOST_CODES / signed.numel()) ** 0.5)
    size = [max(1, int(side * share)) for side in signed.shape[2:]]
    codes, scales = quantise(F.interpolate(signed, size=size, mode="area"))
    grid = responses.parts.shape[1:]
    colours, cells = (F.adaptive_avg_pool2d(responses.guide, tuple(s)) * 255 for s in (size, grid))
    superpixels = responses.superpixels()
    first = np.unique(superpixels.labels, return_index=True)[1]  # a pixel of each superpixel
    groups = [superpixels.segments(k).ravel()[first] for k in NUMBERS]
    arrays = {
        "codes": codes.numpy(),
        "scales": scales.numpy(),
        "colours": colours.round().to(torch.uint8).numpy(),
        "cellColours": cells.round().to(torch.uint8).numpy(),
        "partOfCell": responses.parts.int().argmax(0).numpy().astype(np.uint16),
        "superpixels": superpixels.labels.astype(np.uint16),
        "groups": np.stack(groups).astype(np.uint8),
        "palette": segment_palette(max(NUMBERS)).astype(np.uint8),
    }
    shown, file = responses.image.copy(), BytesIO()
    shown.thumbnail((SHOWN, SHOWN))
    shown.save(file, "webp", quality=90)
    header = {
        "size": list(responses.processing_size),
        "imageSize": list(responses.size),
        "shownSize": [shown.height, shown.width],
        "codesSize": size,
        "grid": list(grid),
        "numbers": list(NUMBERS),
        "k": min(NUMBERS, key=lambda k: abs(k - responses.settings.num_masks)),
        "floor": FLOOR,
        "colourWidth": COLOUR,
        "image": f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}",
        "settings": responses.settings.to_dict(),
        **(source or {"name": "", "model": "", "changed": NAMES}),
    }
    return {"header": header, "arrays": {name: _encoded(array) for name, array in arrays.items()}}


def source_of(pipe: EmerDiffPipeline, settings: Settings, image: Any, seed: int) -> dict[str, Any]:
    """How responses were made, as far as their settings do not say it: "name" of the image, "model" and "dtype", "seed", and
    which settings ("changed") are not the model's own."""
    usual, name = pipe.resolve(mode=settings.mode).to_dict(), isinstance(image, str | Path)
    return {
        "name": str(image) if name else "",
        "model": pipe.model_name or "",
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "seed": seed,
        "changed": [name for name, value in settings.to_dict().items() if value != usual[name]],
    }


def _encoded(array: np.ndarray) -> dict[str, str]:
    packed = zlib.compress(array.astype(array.dtype.newbyteorder("<")).tobytes(), 9)
    return {"dtype": array.dtype.name, "zlib": base64.b64encode(packed).decode("ascii")}


def page(data: Mapping[str, Any]) -> str:
    """A whole HTML document that loads nothing: the explorer of a :func:`payload`."""
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<title>EmerDiff explorer</title><style>{(HERE / "explorer.css").read_text("utf-8")}</style></head>
<body class="emerdiff-page"><h1>EmerDiff explorer</h1><div id="explorer"></div>
<script type="application/json" id="data">{text}</script>
<script type="module">
{SCRIPT}
const data = JSON.parse(document.getElementById("data").textContent);
window.explorer = await mount(document.getElementById("explorer"), data);
</script></body></html>
"""


def save_page(responses: ImageResponses, path: Path | str) -> Path:
    """Write :func:`page` of the responses to ``path`` (folders are made), less than a megabyte, and return it."""
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page(payload(responses)))
    return path


class Explorer(anywidget.AnyWidget):
    """An image and what follows from its responses: segments for any K, cells behind a pixel, pixels behind a cell, own masks.

    All of it is computed where it is shown; no kernel is needed. Shown outside of a live notebook (exported HTML, a
    forge), it is the page of :func:`page`.

    Args:
        responses: of one image, from ``pipe.probe(pipe.cluster(image, mode="pixel"))``.
        source: see :func:`payload`.

    Attributes:
        num_segments: K that is shown; ``responses.segments(explorer.num_segments)`` are its labels. It can be set and observed,
            as the other two can.
        selected: the segment that was clicked, or None.
        mask: (h, w) rows of 0 and 1, the cells that were painted; ``responses.difference_maps([explorer.mask])``.
    """

    _esm = SCRIPT + "\nexport default { render: renderExplorer };"
    _css = HERE / "explorer.css"
    data = traitlets.Dict().tag(sync=True)
    num_segments = traitlets.Int().tag(sync=True)
    selected = traitlets.Int(None, allow_none=True).tag(sync=True)
    mask = traitlets.List().tag(sync=True)

    def __init__(self, responses: ImageResponses, source: Any = None):
        data, empty = payload(responses, source), np.zeros(responses.grid, int).tolist()
        super().__init__(data=data, num_segments=data["header"]["k"], mask=empty)
        self.responses = responses

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        style = "width: 100%; height: 40rem; border: 0"
        frame = f'<iframe srcdoc="{html.escape(page(self.data))}" title="EmerDiff explorer" style="{style}">'
        return data | {"text/html": f"{frame}</iframe>"}, metadata


@torch.no_grad()
def explore(
    pipe: EmerDiffPipeline, image: ImageInput, *, generator: torch.Generator | None = None, **settings: Any
) -> Explorer:
    """Segment an image in pixel mode and show its :class:`Explorer`.

    Args:
        image: as for the pipeline.
        generator: source of the inversion noise and of k-means' seed; by default one of seed 0.
        **settings: of the pipeline.
    """
    generator = generator or torch.Generator().manual_seed(0)
    coarse = pipe.cluster(image, generator=generator, **({"mode": "pixel"} | settings))
    source = source_of(pipe, coarse.settings, image, generator.initial_seed())
    return Explorer(pipe.probe(coarse), source)
