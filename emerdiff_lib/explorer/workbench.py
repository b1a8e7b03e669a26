"""The explorer with everything else around it: images to pick, settings to change, two results side by side.

What needs the network is computed when "Compute" is pressed, in a thread, with progress and a way to stop it; results are
kept, so that going back is instant. What follows from stored responses stays in the browser (:mod:`.widget`).
"""

from __future__ import annotations

import hashlib
import html
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from typing import Any

import ipywidgets as widgets
import torch
from PIL import Image

from ..datasets.images import one_image
from ..frozen_model import network_state
from ..images import ImageInput, load_image
from ..pipeline import EmerDiffPipeline
from ..responses import ImageResponses
from .widget import Explorer, payload

KEPT = 16  # results
SIDES = ("left", "right")
GIVEN = "the given image"


class Cancelled(Exception):
    """The reader has changed their mind."""


class Workbench(widgets.VBox):
    """Two :class:`~.widget.Explorer` and the controls that fill them.

    Args:
        pipe: whose settings can be changed.
        image: to begin with: as for the pipeline, or "toyscapes:7", a Toyscapes scene by its seed.
        compute: begin at once with this checkpoint's own settings.
        seed: of the inversion noise and of k-means.
    """

    def __init__(
        self, pipe: EmerDiffPipeline, image: ImageInput = "toyscapes:7", compute: bool = True, seed: int = 0
    ):
        self.pipe, self.seed = pipe, seed
        self.results: OrderedDict[str, ImageResponses] = OrderedDict()
        self.thread: threading.Thread | None = None
        self._cancel = threading.Event()
        self._images: dict[str, Image.Image] = {} if isinstance(image, str) else {GIVEN: load_image(image)}
        self._build(image if isinstance(image, str) else GIVEN)
        self.explorers: dict[str, Explorer] = {}
        self.captions: dict[str, widgets.HTML] = {}
        super().__init__([self.controls, self.state, self.pair])
        if compute:
            self.start()

    # -- controls -----------------------------------------------------------------------------------------------------------

    def _build(self, image: str) -> None:
        settings = self.pipe.resolve(mode="pixel")
        look = {"style": {"description_width": "8rem"}, "layout": widgets.Layout(width="24rem")}
        wide = lambda description: {"description": description, **look}
        timesteps = sorted(int(t) for t in self.pipe.predictor(prompt=None).timesteps)
        steps = {"options": timesteps, "continuous_update": False}
        layers = {"options": list(self.pipe.backbone.layers())}
        strength = {"min": 0.01, "max": 1000, **wide("Strength, λ")}
        self.inputs = {
            "mode": widgets.Dropdown(options=["pixel", "fast"], **wide("Mode")),
            "num_masks": widgets.BoundedIntText(settings.num_masks, min=2, max=40, **wide("Segments, K")),
            "modulation_strength": widgets.BoundedFloatText(settings.modulation_strength, **strength),
            "modulation_timestep": widgets.SelectionSlider(
                value=settings.modulation_timestep, **steps, **wide("Modulate at t_m")
            ),
            "feature_timestep": widgets.SelectionSlider(
                value=settings.feature_timestep, **steps, **wide("Queries at t_f")
            ),
            "feature_layer": widgets.Dropdown(value=settings.feature_layer, **layers, **wide("Queries of")),
            "modulation_layer": widgets.Dropdown(
                value=settings.modulation_layer, **layers, **wide("Modulate in")
            ),
        }
        self.image_name = widgets.Text(image, tooltip="toyscapes:SEED, or a file", **wide("Image"))
        self.upload = widgets.FileUpload(accept="image/*", description="Upload an image")
        self.side = widgets.ToggleButtons(options=SIDES, description="Show on the")
        self.run = widgets.Button(description="Compute", button_style="primary", icon="play")
        self.cancel = widgets.Button(description="Cancel", icon="stop", disabled=True)
        self.bar = widgets.FloatProgress(0, min=0, max=1, layout=widgets.Layout(width="14rem"))
        self.said = widgets.HTML("", layout=widgets.Layout(min_height="1.5rem"))
        grid = {"grid_template_columns": "repeat(auto-fit, minmax(28rem, 1fr))", "grid_gap": "1rem"}
        self.pair = widgets.GridBox([], layout=widgets.Layout(**grid))
        inputs = list(self.inputs.values())
        columns = ([self.image_name, self.upload, *inputs[:2]], inputs[2:5], [*inputs[5:], self.side])
        wrap = widgets.Layout(flex_flow="row wrap")
        self.controls = widgets.HBox([widgets.VBox(column) for column in columns], layout=wrap)
        self.state = widgets.HBox([self.run, self.cancel, self.bar, self.said], layout=wrap)
        self.inputs["mode"].observe(self._follow_mode, "value")
        self.upload.observe(self._take_upload, "value")
        self.run.on_click(lambda _: self.start())
        self.cancel.on_click(lambda _: self._cancel.set())

    def _follow_mode(self, change: Any) -> None:
        """A mode brings its own strength."""
        strength = self.pipe.resolve(mode=change["new"]).modulation_strength
        self.inputs["modulation_strength"].value = strength

    def _take_upload(self, change: Any) -> None:
        for file in change["new"]:
            name = file["name"]
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", Image.DecompressionBombWarning)
                    self._images[name] = load_image(bytes(file["content"]))
            except (OSError, ValueError, Image.DecompressionBombWarning) as error:
                self._say(f"{name} cannot be read: {error}")
                return
            self.image_name.value = name
            self._say(f"{name}: press Compute.")

    def settings(self) -> dict[str, Any]:
        """What the controls say, as the pipeline takes it."""
        return {name: control.value for name, control in self.inputs.items()}

    def image(self, name: str = "") -> Image.Image:
        """The image of a name, by default that in the controls; raises as :func:`~emerdiff_lib.datasets.images.one_image`."""
        name = name or self.image_name.value.strip()
        return self._images[name] if name in self._images else one_image(name).image

    # -- computing ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Compute what the controls say, unless it is known, and show it; nothing happens while something is being computed."""
        if self.thread is not None and self.thread.is_alive():
            return
        self._cancel.clear()
        self.run.disabled, self.cancel.disabled, self.bar.value = True, False, 0
        self._say("Computing …")
        asked = self.side.value, self.image_name.value.strip(), self.settings()
        self.thread = threading.Thread(target=self._work, args=asked, daemon=True)
        self.thread.start()

    def _work(self, side: str, name: str, settings: dict[str, Any]) -> None:
        """In its own thread: whatever goes wrong is said, and what is shown stays."""
        try:
            responses = self._respond(self.image(name), settings)
            self._show(side, name, responses)
            self._say(f"{side}: {responses!r}")
        except Cancelled:
            self._say("Cancelled; what is shown stays.")
        except Exception as error:
            self._say(f"{error}")
        finally:
            self.run.disabled, self.cancel.disabled = False, True

    def _respond(self, image: Image.Image, settings: dict[str, Any]) -> ImageResponses:
        used = self.pipe.resolve(**settings).to_dict()
        made_by = [self.seed, image.size, sorted(used.items()), self.pipe.autocast, *self._model_state()]
        key = hashlib.sha256(image.tobytes() + repr(made_by).encode()).hexdigest()
        if key not in self.results:
            generator = torch.Generator().manual_seed(self.seed)
            with torch.no_grad(), self.pipe.watched(partial(_Bar, self)):
                coarse = self.pipe.cluster(image, generator=generator, **settings)
                rows = self.pipe.default_mask_batch_size(coarse.trajectory.clean_latents, one_sided=True)
                # few at once, so that a stop is soon heard
                self.results[key] = self.pipe.respond(coarse, mask_batch_size=min(rows, 8))
            while len(self.results) > KEPT:
                self.results.popitem(last=False)
        self.results.move_to_end(key)
        self.bar.value = 1
        return self.results[key]

    def _model_state(self) -> Iterator[Any]:
        """What changes when weights are loaded, replaced or changed in place, without reading them."""
        for part in self.pipe.components.values():
            if isinstance(part, torch.nn.Module):
                yield network_state(part)
                yield [(name, p.data_ptr(), p._version) for name, p in part.named_parameters()]

    def _show(self, side: str, name: str, responses: ImageResponses) -> None:
        settings = responses.settings
        caption = (
            f"<b>{html.escape(name)}</b>, {settings.mode}: λ = {settings.modulation_strength:g} at "
            f"t = {settings.modulation_timestep}, queries at t = {settings.feature_timestep}"
        )
        if side in self.explorers:
            shown = self.explorers[side]
            shown.responses, shown.data = responses, payload(responses)
            self.captions[side].value = caption
            return
        self.explorers[side], self.captions[side] = Explorer(responses), widgets.HTML(caption)
        filled = [side for side in SIDES if side in self.explorers]
        self.pair.children = [widgets.VBox([self.captions[s], self.explorers[s]]) for s in filled]

    def _say(self, sentence: str) -> None:
        self.said.value = f'<span role="status">{html.escape(sentence)}</span>'


class _Bar:
    """As much of ``tqdm`` as the pipeline uses, over the workbench's own bar; it ends the work when "Cancel" was pressed."""

    def __init__(self, bench: Workbench, items: Any = None, total: int | None = None):
        self.bench, self.items, self.done = bench, items, 0
        self.total = len(items) if total is None else total
        self._check()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            yield item
            self.update()

    def update(self, count: int = 1) -> None:
        self.done += count
        self.bench.bar.value = self.done / max(1, self.total)
        self._check()

    def _check(self) -> None:
        if self.bench._cancel.is_set():
            raise Cancelled
