"""The explorer in JupyterLab, VS Code and Colab: one widget, and the same page for where there is no kernel."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

import anywidget
import torch
import traitlets

from ..images import ImageInput
from ..pipeline import EmerDiffPipeline
from ..responses import ImageResponses
from .page import HERE, page
from .payload import payload


class Explorer(anywidget.AnyWidget):
    """A picture and what follows from its responses: segments for any K, cells behind a pixel, pixels behind a cell, own masks.

    All of it is computed where it is shown; the kernel is asked for nothing. Shown outside of a live notebook (exported HTML, a
    forge), it is the page of :func:`~.page.page`.

    Args:
        responses: of one picture, from ``pipe.probe(pipe.cluster(image, mode="pixel"))``.
        numbers: of segments to choose from, see :func:`~.payload.payload`.
    """

    _esm = HERE / "explorer.js"
    _css = HERE / "explorer.css"
    data = traitlets.Dict().tag(sync=True)

    def __init__(self, responses: ImageResponses, numbers: Iterable[int] | None = None, **kwargs: Any):
        self.responses, self.numbers = responses, None if numbers is None else list(numbers)
        super().__init__(data=payload(responses, self.numbers), **kwargs)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        whole = isinstance(bundle, tuple)
        data = dict(bundle[0] if whole else bundle or {})
        frame = html.escape(page(self.responses, self.numbers), quote=True)
        data["text/html"] = (
            f'<iframe srcdoc="{frame}" title="EmerDiff explorer" style="width: 100%; height: 40rem; border: 0"></iframe>'
        )
        return (data, bundle[1]) if whole else data


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
