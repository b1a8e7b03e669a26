"""The explorer with everything else around it: images and models to pick, settings to change, two results side by side.

What needs the network is computed when "Compute" is pressed, with progress and a way to stop it; results are kept, so that
going back is instant. What follows from stored responses stays in the browser (:mod:`.widget`).
"""

from __future__ import annotations

import base64
import hashlib
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import count
from types import SimpleNamespace
from typing import Any

import anywidget
import torch
import traitlets
from PIL import Image

from ..datasets.images import one_image
from ..frozen_model import network_state
from ..images import SAMPLE, SAMPLES, ImageInput, load_image
from ..loading import VARIANTS
from ..pipeline import EmerDiffPipeline
from ..responses import ImageResponses
from ..settings import check_known
from .widget import HERE, payload, script, source_of

KEPT = 16  # results, and images that were uploaded
MODELS = ("toyscapes", "streets", *VARIANTS)
Tell = Callable[[float], None]  # is told which share of the work is done, and raises Cancelled to end it


class Cancelled(Exception):
    """The reader has changed their mind."""


class Bench:
    """Models, images and results, whoever looks at them: what a request asks is answered in plain values.

    Requests wait for each other, so that however many pages share the models of one process.

    Args:
        load: a pipeline by its name.
        models: names to choose from; none where there is but one pipeline.
        seed: of the inversion noise and of k-means.
    """

    def __init__(self, load: Callable[[str], EmerDiffPipeline], models: tuple[str, ...] = (), seed: int = 0):
        self.load, self.models, self.seed = lru_cache(2)(load), models, seed
        self.images: OrderedDict[str, Image.Image] = OrderedDict()
        self.results: OrderedDict[str, ImageResponses] = OrderedDict()
        self._busy = threading.Lock()

    def answer(self, request: dict[str, Any], tell: Tell) -> dict[str, Any]:
        """Of "do": "upload" ("name", "content"), "describe" or "compute" ("image", "model", "settings"); whatever goes wrong
        is an "error", a sentence."""
        try:
            do = check_known("do", request.get("do"), ("upload", "describe", "compute"))
            if do == "upload":
                return {"image": self.upload(request["name"], base64.b64decode(request["content"]))}
            while not self._busy.acquire(timeout=0.3):
                tell(0)
            try:
                return getattr(self, do)(request, tell)
            finally:
                self._busy.release()
        except Cancelled:
            return {"error": "Cancelled; what is shown stays."}
        except Exception as error:
            return {"error": str(error) or type(error).__name__}

    def upload(self, name: str, content: bytes) -> str:
        """Keep an image by a name of its own, which is returned."""
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = load_image(content)
        name = f"{name} ({hashlib.sha256(content).hexdigest()[:8]})"
        _keep(self.images, name, image)
        return name

    def describe(self, request: dict[str, Any], tell: Tell) -> dict[str, Any]:
        """What can be chosen for an image and a model, and what is taken where nothing is."""
        pipe = self.pipe(request)
        mode = request.get("settings", {}).get("mode", "pixel")
        return {
            "models": self.models,
            "images": [*self.images, *(SAMPLE + name for name in SAMPLES), "toyscapes:7"],
            "defaults": {"model": pipe.model_name or "", **pipe.resolve(mode=mode).to_dict()},
            "timesteps": sorted(int(t) for t in pipe.predictor(prompt=None).timesteps),
            "layers": list(pipe.backbone.layers()),
        }

    def compute(self, request: dict[str, Any], tell: Tell) -> dict[str, Any]:
        """The explorer's data."""
        responses, name = self.responses(request, tell), request["image"]
        known = None if name in self.images else name
        source = source_of(self.pipe(request), responses.settings, known, self.seed)
        return {"data": payload(responses, source=source)}

    def pipe(self, request: dict[str, Any]) -> EmerDiffPipeline:
        """The model that is asked for, or the bundled one that suits the image; the last two stay loaded."""
        image = request["image"]
        suitable = "streets" if image in self.images else one_image(image).model
        return self.load((request.get("model") or suitable) if self.models else "")

    def responses(self, request: dict[str, Any], tell: Tell) -> ImageResponses:
        """Computed, unless they are known."""
        pipe, name, settings = self.pipe(request), request["image"], {"mode": "pixel"} | request["settings"]
        image = self.images.get(name) or one_image(name).image
        used = pipe.resolve(**settings).to_dict()
        made_by = [pipe.model_name, image.size, sorted(used.items()), pipe.autocast, *_model_state(pipe)]
        key = hashlib.sha256(image.tobytes() + repr(made_by).encode()).hexdigest()
        if key not in self.results:
            generator = torch.Generator().manual_seed(self.seed)
            with torch.no_grad():
                coarse = pipe.cluster(image, generator=generator, **settings)
                rows = pipe.default_mask_batch_size(coarse.trajectory.clean_latents, one_sided=True)
                few, bar = min(rows, 8), partial(_bar, tell)  # so that a stop is soon heard
                _keep(self.results, key, pipe.probe(coarse, mask_batch_size=few, progress=bar))
        self.results.move_to_end(key)
        return self.results[key]


def _keep(held: OrderedDict[str, Any], key: str, value: Any) -> None:
    held[key] = value
    while len(held) > KEPT:
        held.popitem(last=False)


def _model_state(pipe: EmerDiffPipeline) -> Iterator[Any]:
    """What changes when weights are loaded, replaced or changed in place, without reading them."""
    for part in pipe.components.values():
        yield repr(getattr(part, "config", None))  # a scheduler's schedule, a scaling factor
        if isinstance(part, torch.nn.Module):
            yield network_state(part), [(p.data_ptr(), p._version) for p in part.parameters()]


@contextmanager
def _bar(tell: Tell, total: int) -> Iterator[SimpleNamespace]:
    """As much of ``tqdm`` as probing uses; whoever is told may end the work."""
    steps = count(1)
    tell(0)
    yield SimpleNamespace(update=lambda rows=1: [tell(next(steps) / total) for _ in range(rows)])


class Workbench(anywidget.AnyWidget):
    """Two explorers and the controls that fill them, in a notebook.

    Args:
        pipe: whose settings can be changed.
        image: to begin with: as for the pipeline, or "toyscapes:7", a Toyscapes scene by its seed.
        seed: of the inversion noise and of k-means.

    Attributes:
        responses: {"left" or "right": the :class:`~emerdiff_lib.responses.ImageResponses` that are shown there}.
    """

    _esm = script("responses", "explorer", "workbench") + "\nexport default { render: renderWorkbench };"
    _css = HERE / "explorer.css"
    shown = traitlets.Dict().tag(sync=True)  # {side: what it was asked for}

    def __init__(self, pipe: EmerDiffPipeline, image: ImageInput = SAMPLE + "temple", seed: int = 0):
        self.bench = Bench(lambda _: pipe, seed=seed)
        self.responses: dict[str, ImageResponses] = {}
        self._stopped: set[int] = set()
        name = image if isinstance(image, str) else "the given image"
        if name != image:
            self.bench.images[name] = load_image(image)
        super().__init__(shown={"left": {"do": "compute", "image": name, "settings": {}}})
        self.on_msg(self._hear)

    def _hear(self, widget: Any, message: dict[str, Any], buffers: Any) -> None:
        """A request with a number of its own, by which it can be stopped; answered by a thread."""
        if message.get("do") == "stop":
            self._stopped.add(message["number"])
        else:
            threading.Thread(target=self._work, args=(message,), daemon=True).start()

    def _work(self, message: dict[str, Any]) -> None:
        number = message["number"]

        def tell(share: float) -> None:
            if number in self._stopped:
                raise Cancelled
            self.send({"number": number, "progress": share})

        answer = self.bench.answer(message, tell)
        if "data" in answer:
            self.responses[message["side"]] = self.bench.responses(message, tell)  # which are known
        self.send({"number": number, **answer})
