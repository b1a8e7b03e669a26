"""The explorer with everything else around it: pictures to pick, settings to change, two results side by side.

What needs the network is computed when "Compute" is pressed, in a thread, with progress and a way to stop it; results are
kept, so that going back is instant. What follows from stored responses stays in the browser (:mod:`.widget`).
"""

from __future__ import annotations

import hashlib
import html
import threading
from collections import OrderedDict
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import ipywidgets as widgets
import torch
from PIL import Image

from ..attention import attention_layers
from ..images import ImageInput, load_image
from ..pipeline import EmerDiffPipeline
from ..responses import ImageResponses
from ..toyscapes import Toyscapes
from .payload import payload
from .widget import Explorer

KEPT = 16  # results
SIDES = ("left", "right")
SCENE = "toyscapes:"


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
        self._uploaded: tuple[str, Image.Image] | None = None
        self._given = None if isinstance(image, str) else load_image(image)
        self._build(image if isinstance(image, str) else "the given picture")
        self.explorers: dict[str, Explorer] = {}
        self.captions: dict[str, widgets.HTML] = {}
        super().__init__([self.controls, self.state, self.pictures])
        if compute:
            self.start()

    # -- controls -----------------------------------------------------------------------------------------------------------

    def _build(self, picture: str) -> None:
        pipe, used = self.pipe, self.pipe.resolve(mode="pixel")
        wide = {"style": {"description_width": "8rem"}, "layout": widgets.Layout(width="24rem")}
        steps = sorted(int(t) for t in pipe.denoiser(prompt=None).timesteps)
        layers = list(attention_layers(pipe.unet, "attn2"))
        p, f = used.perturbation, used.features
        self.picture = widgets.Text(
            picture, description="Picture", tooltip="toyscapes:SEED, or a file", **wide
        )
        self.upload = widgets.FileUpload(accept="image/*", description="Upload a picture")
        self.mode = widgets.Dropdown(options=["pixel", "fast"], description="Mode", **wide)
        self.num_masks = widgets.BoundedIntText(f.num_masks, min=2, max=40, description="Segments, K", **wide)
        self.strength = widgets.BoundedFloatText(
            p.modulation_strength, min=0.01, max=1000, description="Strength, λ", **wide
        )
        self.modulation_timestep = widgets.SelectionSlider(
            options=steps,
            value=p.modulation_timestep,
            description="Push at t_m",
            continuous_update=False,
            **wide,
        )
        self.feature_timestep = widgets.SelectionSlider(
            options=steps,
            value=f.feature_timestep,
            description="Queries at t_f",
            continuous_update=False,
            **wide,
        )
        self.feature_layer = widgets.Dropdown(
            options=layers, value=f.feature_layer, description="Queries of", **wide
        )
        self.modulation_layer = widgets.Dropdown(
            options=layers, value=p.modulation_layer, description="Push in", **wide
        )
        self.side = widgets.ToggleButtons(options=SIDES, description="Show on the")
        self.run = widgets.Button(description="Compute", button_style="primary", icon="play")
        self.cancel = widgets.Button(description="Cancel", icon="stop", disabled=True)
        self.bar = widgets.FloatProgress(0, min=0, max=1, layout=widgets.Layout(width="14rem"))
        self.said = widgets.HTML("", layout=widgets.Layout(min_height="1.5rem"))
        self.pictures = widgets.GridBox(
            [],
            layout=widgets.Layout(
                grid_template_columns="repeat(auto-fit, minmax(28rem, 1fr))", grid_gap="1rem"
            ),
        )
        columns = (
            [self.picture, self.upload, self.mode, self.num_masks],
            [self.strength, self.modulation_timestep, self.feature_timestep],
            [self.feature_layer, self.modulation_layer, self.side],
        )
        wrap = widgets.Layout(flex_flow="row wrap")
        self.controls = widgets.HBox([widgets.VBox(column) for column in columns], layout=wrap)
        self.state = widgets.HBox([self.run, self.cancel, self.bar, self.said], layout=wrap)
        self.mode.observe(self._follow_mode, "value")
        self.upload.observe(self._take_upload, "value")
        self.run.on_click(lambda _: self.start())
        self.cancel.on_click(lambda _: self._cancel.set())

    def _follow_mode(self, change: Any) -> None:
        """A mode brings its own strength."""
        self.strength.value = self.pipe.resolve(mode=change["new"]).perturbation.modulation_strength

    def _take_upload(self, change: Any) -> None:
        for file in change["new"]:
            try:
                picture = load_image(Image.open(BytesIO(bytes(file["content"]))))
            except (OSError, ValueError) as error:
                self._say(f"{file['name']} cannot be read: {error}")
                return
            self._uploaded, self.picture.value = (file["name"], picture), file["name"]
            self._say(f"{file['name']}: press Compute.")

    def settings(self) -> dict[str, Any]:
        """What the controls say, as the pipeline takes it."""
        return {
            "mode": self.mode.value,
            "num_masks": self.num_masks.value,
            "modulation_strength": self.strength.value,
            "modulation_timestep": self.modulation_timestep.value,
            "feature_timestep": self.feature_timestep.value,
            "feature_layer": self.feature_layer.value,
            "modulation_layer": self.modulation_layer.value,
        }

    def image(self) -> Image.Image:
        """The picture that is asked for.

        Raises:
            ValueError, OSError: there is none, in a sentence.
        """
        name = self.picture.value.strip()
        if self._uploaded is not None and name == self._uploaded[0]:
            return self._uploaded[1]
        if self._given is not None and name == "the given picture":
            return self._given
        if name.startswith(SCENE):
            seed = name.removeprefix(SCENE)
            if not seed.isdigit():
                raise ValueError(
                    f"{name!r} names no scene; write toyscapes: and a number, such as toyscapes:7."
                )
            return Toyscapes.from_seed(int(seed)).image
        return load_image(name)

    # -- computing ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Compute what the controls say, unless it is known, and show it; nothing happens while something is being computed."""
        if self.thread is not None and self.thread.is_alive():
            return
        self._cancel.clear()
        self.run.disabled, self.cancel.disabled, self.bar.value = True, False, 0
        self._say("Computing …")
        self.thread = threading.Thread(
            target=self._work, args=(self.side.value, self.settings()), daemon=True
        )
        self.thread.start()

    def _work(self, side: str, settings: dict[str, Any]) -> None:
        """In its own thread: whatever goes wrong is said, and what is shown stays."""
        try:
            responses = self._respond(self.image(), settings)
            self._show(side, responses)
            self._say(f"{side}: {responses!r}")
        except Cancelled:
            self._say("Cancelled; what is shown stays.")
        except Exception as error:
            self._say(f"{error}")
        finally:
            self.run.disabled, self.cancel.disabled = False, True

    def _respond(self, image: Image.Image, settings: dict[str, Any]) -> ImageResponses:
        used = self.pipe.resolve(**settings).to_dict()
        key = hashlib.sha256(image.tobytes() + repr((image.size, sorted(used.items()))).encode()).hexdigest()
        if key not in self.results:
            generator = torch.Generator().manual_seed(self.seed)
            with torch.no_grad(), self.pipe.watched(self._bar):
                coarse = self.pipe.coarse(image, generator=generator, **settings)
                rows = self.pipe.default_mask_batch_size(coarse.trajectory, coarse.settings.shortcuts)
                found = self.pipe.respond(
                    coarse, mask_batch_size=min(rows, 8)
                )  # so that a stop is soon heard
            if not isinstance(found, ImageResponses):
                raise ValueError("The explorer shows responses of small masks; choose 'pixel' or 'fast'.")
            self.results[key] = found
            while len(self.results) > KEPT:
                self.results.popitem(last=False)
        self.results.move_to_end(key)
        self.bar.value = 1
        return self.results[key]

    def _bar(self, items: Any = None, total: int | None = None) -> _Bar:
        return _Bar(self, items, total)

    def _show(self, side: str, responses: ImageResponses) -> None:
        p, f = responses.settings.perturbation, responses.settings.features
        caption = (
            f"<b>{html.escape(self.picture.value)}</b>, {responses.settings.mode}: λ = {p.modulation_strength:g} at "
            f"t = {p.modulation_timestep}, queries at t = {f.feature_timestep}"
        )
        if side in self.explorers:
            shown = self.explorers[side]
            shown.responses, shown.data = responses, payload(responses)
            self.captions[side].value = caption
            return
        self.explorers[side], self.captions[side] = Explorer(responses), widgets.HTML(caption)
        filled = [side for side in SIDES if side in self.explorers]
        self.pictures.children = [widgets.VBox([self.captions[s], self.explorers[s]]) for s in filled]

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
