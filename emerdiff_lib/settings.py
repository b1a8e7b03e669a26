"""Everything one can set, as one frozen value that checks itself, goes to JSON and back, and is resolved in one place."""

import dataclasses
import difflib
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from numbers import Integral
from typing import Annotated, Any, Self, TypedDict

import torch

# What a mode sets; every other setting is the checkpoint's. "exact" is the paper's method and sets nothing.
# notebooks/results/pixel_*.json say how the other two were chosen.
_SHORT = {"denoising_steps": 2, "one_sided": True, "modulation_strength": 3.0}
MODES: dict[str, dict[str, Any]] = {
    "exact": {},
    "pixel": _SHORT | {"readout": "image", "guide_radius": 1.0, "num_parts": 64},
    "fast": _SHORT | {"readout": "latents", "guide_radius": 1.5, "num_parts": 16},
}


# -- checks: each returns the value as plain Python, or raises a ValueError of one sentence --------------------------


def whole(low: int, high: int | None = None, optional: bool = False) -> Callable[[str, Any], int | None]:
    """A whole number in [low, high]; numpy's count, floats and booleans do not."""
    bounds = f"of at least {low}" if high is None else f"from {low} to {high}"

    def check(name: str, value: Any) -> int | None:
        if optional and value is None:
            return None
        is_whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not is_whole or not low <= value <= (math.inf if high is None else high):
            raise ValueError(f"{name}={value!r} is not possible; it is a whole number {bounds}.")
        return int(value)

    return check


def real(low: float, high: float | None = None, above: bool = False) -> Callable[[str, Any], float]:
    """A finite number in [low, high], or above ``low``."""
    bounds = f"above {low:g}" if above else f"of at least {low:g}"
    bounds += "" if high is None else f" and at most {high:g}"
    limit = sys.float_info.max if high is None else high

    def check(name: str, value: Any) -> float:
        try:
            number = math.nan if isinstance(value, bool | str) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not low <= number <= limit or (above and number == low):
            raise ValueError(f"{name}={value!r} is not possible; it is a finite number {bounds}.")
        return number

    return check


def flag(name: str, value: Any) -> bool:
    """True or False, and nothing that merely looks like it."""
    if type(value).__name__ not in ("bool", "bool_"):  # numpy's as well
        raise ValueError(f"{name}={value!r} is not possible; it is True or False.")
    return bool(value)


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name}={value!r} is not possible; it is one string.")
    return value


def check_known(name: str, value: Any, valid: Iterable[str]) -> str:
    """Returns ``value`` if it is one of ``valid``, else raises a ValueError that lists them and suggests the nearest."""
    valid = list(valid)
    if not isinstance(value, str) or value not in valid:
        known = ", ".join(map(repr, valid))
        raise ValueError(f"{name}={value!r} is unknown{suggestion(value, valid)}; choose one of {known}.")
    return value


def suggestion(value: Any, valid: Iterable[str]) -> str:
    """For behind an unknown name, the nearest of those there are, in brackets; "" if none is near."""
    near = difflib.get_close_matches(str(value), valid, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def one_of(*valid: str) -> Callable[[str, Any], str]:
    """One of a few names."""
    return partial(check_known, valid=valid)


# -- the values -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting of the method. The names are the keywords of the pipeline, the keys of its outputs' ``settings`` and the
    parameters of the notebooks; a field's annotation is the check that its value passes.

    Attributes:
        mode: "exact" (the paper's), "pixel" or "fast"; what it sets stands in :data:`MODES`.
        num_masks: K, the number of coarse masks (Sec. 3.1).
        feature_layer: cross-attention layer whose queries are clustered.
        feature_timestep: t_f, at which queries are extracted.
        noise_ensemble_size: number of noise draws over which they are averaged.
        processing_resolution: images are processed at about this number squared of pixels, at their aspect ratio.
        inversion: "ddpm" (edit-friendly) or "ddim": how the image gets into the noise space.
        num_inference_steps: N, on the full noise schedule.
        prompt: text condition of every network call; empty in the paper.
        modulation_layer: cross-attention layer whose output is modulated (Sec. 3.2).
        modulation_timestep: t_m, the only timestep at which the output is modulated; denoising starts there.
        modulation_strength: λ > 0, added to and subtracted from every channel of the layer's output inside a mask.
        offset_placement: "after_projection" of the layer's output (paper) or "before_projection" (its Fig. 14).
        attention_injection: hold all attention maps at their unmodulated values while denoising.
        denoising_steps: network evaluations from t_m to x₀, evenly spread; 1 reads x̂₀ right after the modulated one.
            λ is scaled so that the first, larger step moves the latents as far as a step of the full trajectory would.
            None keeps every inference step.
        one_sided: compare −λ with the unmodulated image instead of with +λ: half of the rows.
        readout: "image" decodes every row; "latents" compares latents: no decoding at all.
        num_parts: P, at least K: every pixel gets a feature of its own, its share in each of P probe masks times their
            features, and K segments are made of those (:mod:`emerdiff_lib.pixels`); refinement is then of features.
            None: every pixel takes the mask with the largest response (paper).
        filter_sigma: standard deviation of the paper's Gaussian filter, in pixels at the processing size; 0 for none.
        guide_radius: of pixel and fast mode, radius of a guided filter with the image as guide, in heights of a coarse
            cell; 0 for none.

    Raises:
        ValueError: one sentence about a value that is not possible, or about two that do not go together.
    """

    mode: Annotated[str, one_of(*MODES)] = "exact"
    num_masks: Annotated[int, whole(1)]
    feature_layer: Annotated[str, text]
    feature_timestep: Annotated[int, whole(0)] = 1
    noise_ensemble_size: Annotated[int, whole(1)] = 1
    processing_resolution: Annotated[int, whole(1, 16384)]
    inversion: Annotated[str, one_of("ddpm", "ddim")] = "ddpm"
    num_inference_steps: Annotated[int, whole(1)] = 50
    prompt: Annotated[str, text] = ""
    modulation_layer: Annotated[str, text]
    modulation_timestep: Annotated[int, whole(0)] = 281
    modulation_strength: Annotated[float, real(0, above=True)] = 10.0
    offset_placement: Annotated[str, one_of("after_projection", "before_projection")] = "after_projection"
    attention_injection: Annotated[bool, flag] = True
    denoising_steps: Annotated[int | None, whole(1, optional=True)] = None
    one_sided: Annotated[bool, flag] = False
    readout: Annotated[str, one_of("image", "latents")] = "image"
    num_parts: Annotated[int | None, whole(2, optional=True)] = None
    filter_sigma: Annotated[float, real(0, 100)] = 1.0
    guide_radius: Annotated[float, real(0, 100)] = 0.0

    def __post_init__(self) -> None:
        for each in fields(self):
            (check,) = each.type.__metadata__  # type: ignore[union-attr]
            object.__setattr__(self, each.name, check(each.name, getattr(self, each.name)))
        if self.denoising_steps is not None and self.inversion != "ddpm":
            raise ValueError(
                f"denoising_steps={self.denoising_steps} (mode={self.mode!r}) needs inversion='ddpm': larger steps are exact "
                "only with recorded noise; leave the inversion out, or use mode='exact'."
            )

    def to_dict(self) -> dict[str, Any]:
        """All settings by name, ready for JSON."""
        return dataclasses.asdict(self)

    def replace(self, **given: Any) -> Self:
        """These settings with some changed; None leaves a setting as it is.

        Another ``mode`` sets what it sets, and what the mode before it had set has the paper's values again.
        """
        return type(self)(**self.changed(given))

    def changed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """``given`` over these, without what this mode sets if they name another one: a default has its place again."""
        kept = self.to_dict()
        if given.get("mode") not in (None, self.mode):
            kept = {name: value for name, value in kept.items() if name not in MODES[self.mode]}
        return layered(given, kept)


class Options(TypedDict, total=False):
    """Settings as keywords, for type checkers and editors; None, or left out, is the checkpoint's default."""

    mode: str | None
    feature_layer: str | None
    feature_timestep: int | None
    noise_ensemble_size: int | None
    processing_resolution: int | None
    inversion: str | None
    num_inference_steps: int | None
    prompt: str | None
    modulation_layer: str | None
    modulation_timestep: int | None
    modulation_strength: float | None
    offset_placement: str | None
    attention_injection: bool | None
    denoising_steps: int | None
    one_sided: bool | None
    readout: str | None
    num_parts: int | None
    filter_sigma: float | None
    guide_radius: float | None


NAMES = tuple(each.name for each in fields(Settings))
REQUIRED = tuple(each.name for each in fields(Settings) if each.default is dataclasses.MISSING)
# What later stages can still set otherwise
MODULATED = ("mode", *NAMES[NAMES.index("modulation_layer") : NAMES.index("filter_sigma")])
ASSIGNED = ("mode", "filter_sigma", "guide_radius")


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings of several layers; where two have a setting (and not None), the first wins.

    What a mode sets stands right below the first layer that names one.
    """
    flat: dict[str, Any] = {}
    for layer in layers:
        check_names(layer)
        given = {name: value for name, value in layer.items() if value is not None}
        if "mode" in given and "mode" not in flat:
            given = MODES[check_known("mode", given["mode"], MODES)] | given
        flat = given | flat
    return flat


def check_names(names: Iterable[str]) -> None:
    """Raises a ValueError for the first name that is no setting, suggesting the nearest that is."""
    for name in names:
        check_known("setting", name, NAMES)


def check_only(step: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raises a ValueError for the first name that a stage does not take."""
    check_names(given)
    if wrong := [name for name in given if name not in allowed]:
        raise ValueError(
            f"{wrong[0]} was settled at an earlier stage; {step} takes {', '.join(allowed)}. Start again from the stage "
            "that it belongs to."
        )


def check_generator(generator: Any) -> None:
    """Raises a ValueError for anything but a ``torch.Generator`` or None."""
    if generator is not None and not isinstance(generator, torch.Generator):
        seed = generator if isinstance(generator, int) else 0
        raise ValueError(f"generator={generator!r} is none; pass torch.Generator().manual_seed({seed}).")


def check_made(name: str, value: Any, kind: Any, maker: str) -> None:
    """Raises a ValueError for anything but what a stage makes."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} is of the type {type(value).__name__}; pass what {maker} returns.")
