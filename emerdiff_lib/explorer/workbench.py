"""Two explorers side by side and the controls that fill them: what needs the network is computed when "Compute" is pressed, with
progress and a way to stop it; what follows from responses stays in the browser (:mod:`.widget`).
"""

from __future__ import annotations

import html
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import ipywidgets
import torch
from PIL import Image

from ..datasets.images import one_image
from ..images import SAMPLE, SAMPLES, ImageInput, load_image
from ..pipeline import EmerDiffPipeline
from ..responses import ImageResponses
from .widget import Explorer, source_of

SIDES = ("left", "right")
ROWS = 8  # masks per batch at most, so that a stop is soon heard


class Cancelled(Exception):
    """The reader has changed their mind."""


class Workbench(ipywidgets.VBox):
    """Settings of one model on any image, two results at a time; it begins to compute the first when it is made.

    Args:
        pipe: whose settings can be changed.
        image: to begin with: as for the pipeline, or "toyscapes:7", a Toyscapes scene by its seed.
        seed: of the inversion noise and of k-means.

    Attributes:
        settings: the control of each setting, by its name; ``image``, ``upload``, ``side``, ``start`` and ``stop`` are others.
        bar, said: what the reader is told; ``places``: where results are shown.
        images: {name: image} of those that are no file.
        responses: {"left" or "right": the :class:`~emerdiff_lib.responses.ImageResponses` that are shown there}.
        worker: the thread that computes.
    """

    def __init__(self, pipe: EmerDiffPipeline, image: ImageInput = SAMPLE + "temple", seed: int = 0):
        self.pipe, self.seed = pipe, seed
        self.images: dict[str, Image.Image] = {}
        self.responses: dict[str, ImageResponses] = {}
        self.worker = threading.Thread()
        self.stopped = False
        name = image if isinstance(image, str) else "the given image"
        if not isinstance(image, str):
            self.images[name] = load_image(image)

        usual, layers = pipe.resolve(mode="pixel"), pipe.backbone.layers()
        timesteps = sorted(pipe.predictor(prompt=None).timesteps)
        wide = {"style": {"description_width": "initial"}, "layout": {"width": "auto"}}
        choice = lambda text, options, value: ipywidgets.Dropdown(
            description=text, options=options, value=value, **wide
        )
        self.settings: dict[str, Any] = {
            "mode": choice("Mode", ("pixel", "fast"), "pixel"),
            "modulation_strength": ipywidgets.FloatText(
                usual.modulation_strength, description="Strength λ", **wide
            ),
            "modulation_timestep": choice("Modulate at t_m", timesteps, usual.modulation_timestep),
            "feature_timestep": choice("Queries at t_f", timesteps, usual.feature_timestep),
            "feature_layer": choice("Queries of layer", layers, usual.feature_layer),
            "modulation_layer": choice("Modulate layer", layers, usual.modulation_layer),
        }
        known = [*(SAMPLE + sample for sample in SAMPLES), "toyscapes:7"]
        self.image = ipywidgets.Combobox(value=name, options=known, description="Image", **wide)
        self.upload = ipywidgets.FileUpload(accept="image/*", description="Choose file")
        self.side = choice("Show on the", SIDES, "left")
        self.start = ipywidgets.Button(description="Compute", button_style="primary")
        self.stop = ipywidgets.Button(description="Cancel", disabled=True)
        self.bar, self.said = ipywidgets.FloatProgress(max=1.0), ipywidgets.HTML()
        half = {"width": "auto", "flex": "1 1 36rem", "min_width": "0"}
        self.places = {side: ipywidgets.VBox(layout=half) for side in SIDES}
        self.upload.observe(self._uploaded, "value")
        self.start.on_click(self.compute)
        self.stop.on_click(lambda _: setattr(self, "stopped", True))
        wrapped = {"display": "flex", "flex_flow": "row wrap", "align_items": "center"}
        rows = (self.image, self.upload), self.settings.values(), (self.side, self.start, self.stop, self.bar)
        boxes = [ipywidgets.Box(tuple(row), layout=wrapped) for row in (*rows, self.places.values())]
        super().__init__((*boxes[:3], self.said, boxes[3]))
        self.compute()

    def compute(self, _: Any = None) -> None:
        """Begin to compute what the controls say, unless that is under way; ``worker.join()`` waits for it."""
        if not self.worker.is_alive():
            asked = {name: control.value for name, control in self.settings.items()}
            self.stopped, self.start.disabled, self.stop.disabled = False, True, False
            self.bar.value = 0.0
            self.worker = threading.Thread(
                target=self._work, args=(self.image.value.strip(), self.side.value, asked), daemon=True
            )
            self.worker.start()

    def _work(self, name: str, side: str, settings: dict[str, Any]) -> None:
        self._say("Computing …")
        try:
            known = None if name in self.images else name  # no line of Python can say what was uploaded
            image = self.images.get(name) or one_image(name).image
            generator = torch.Generator().manual_seed(self.seed)
            with torch.no_grad():
                coarse = self.pipe.cluster(image, generator=generator, **settings)
                rows = self.pipe.default_mask_batch_size(coarse.trajectory.clean_latents, one_sided=True)
                responses = self.pipe.probe(coarse, mask_batch_size=min(rows, ROWS), progress=self._progress)
            source = source_of(self.pipe, responses.settings, known, self.seed)
            title = f"{name} · {settings['mode']} mode · λ = {settings['modulation_strength']:g} at "
            title += f"t = {settings['modulation_timestep']} · queries at t = {settings['feature_timestep']}"
            heading = ipywidgets.HTML(f"<b>{html.escape(title)}</b>")
            before = self.places[side].children
            self.places[side].children = heading, Explorer(responses, source)
            self.responses[side] = responses
            for widget in before:  # ipywidgets keeps what is not closed, and so does the page
                widget.close()
            self._say(f"Done in {sum(responses.seconds.values()):.1f} s; shown on the {side}.")
        except Cancelled:
            self._say("Cancelled; what is shown stays.")
        except Exception as error:  # whatever goes wrong is said beside the controls, not in the server's log
            self._say(str(error) or type(error).__name__)
        finally:
            self.start.disabled, self.stop.disabled = False, True

    @contextmanager
    def _progress(self, total: int) -> Iterator[SimpleNamespace]:
        """As much of ``tqdm`` as probing uses."""
        self.bar.max, self.bar.value = float(total), 0.0

        def update(masks: int) -> None:
            self.bar.value += masks
            if self.stopped:
                raise Cancelled

        update(0)  # hears of a stop during the inversion
        yield SimpleNamespace(update=update)

    def _uploaded(self, change: Any) -> None:
        for file in change["new"]:
            try:
                self.images[file["name"]] = load_image(bytes(file["content"]))
                self.image.options = tuple(dict.fromkeys((file["name"], *self.image.options)))
                self.image.value = file["name"]
                self._say("Press Compute.")
            except Exception as error:
                self._say(str(error))
        if change["new"]:
            self.upload.value = ()  # so that the same file can be chosen again

    def _say(self, text: str) -> None:
        self.said.value = html.escape(text)
