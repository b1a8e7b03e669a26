"""Everything one can set, as small frozen values that check themselves, go to JSON and back, and resolve in one place."""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

INVERSIONS = ("ddpm", "ddim")
PLACEMENTS = ("after_projection", "before_projection")
READOUTS = ("image", "latents")

# What a mode sets; every other setting is the checkpoint's. notebooks/results/pixel_*.json say how these were chosen.
MODES: dict[str, dict[str, Any]] = {
    "exact": {
        "denoising_steps": None,
        "one_sided": False,
        "readout": "image",
        "guide_radius": 0.0,
        "num_parts": None,
        "modulation_strength": 10.0,
    },
    "pixel": {
        "denoising_steps": 2,
        "one_sided": True,
        "readout": "image",
        "guide_radius": 1.0,
        "num_parts": 64,
        "modulation_strength": 3.0,
    },
    "fast": {
        "denoising_steps": 2,
        "one_sided": True,
        "readout": "latents",
        "guide_radius": 1.5,
        "num_parts": 16,
        "modulation_strength": 3.0,
    },
}


# -- checks: each returns the value as plain Python, or raises a ValueError of one sentence --------------------------


def whole(low: int, high: int | None = None, optional: bool = False) -> Callable[[str, Any], int | None]:
    """A whole number in [low, high]; numpy's count, floats and booleans do not."""
    bounds = f"of at least {low}" if high is None else f"from {low} to {high}"

    def check(name: str, value: Any) -> int | None:
        if optional and value is None:
            return None
        try:
            number = None if isinstance(value, bool) else operator.index(value)
        except TypeError:
            number = None
        if number is None or number < low or (high is not None and number > high):
            raise ValueError(f"{name}={value!r} is not possible; it is a whole number {bounds}.")
        return number

    return check


def real(low: float, high: float | None = None, above: bool = False) -> Callable[[str, Any], float]:
    """A finite number in [low, high], or above ``low``."""
    bounds = f"above {low:g}" if above else f"of at least {low:g}"
    bounds += "" if high is None else f" and at most {high:g}"

    def check(name: str, value: Any) -> float:
        try:
            number = math.nan if isinstance(value, bool | str) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        too_low = number <= low if above else number < low
        if not math.isfinite(number) or too_low or (high is not None and number > high):
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


def choice(valid: Iterable[str]) -> Callable[[str, Any], str]:
    """One of a few names."""

    def check(name: str, value: Any) -> str:
        return check_known(name, value, valid)

    return check


def check_known(name: str, value: Any, valid: Iterable[str]) -> str:
    """Returns ``value`` if it is one of ``valid``, else raises a ValueError that lists them and suggests the nearest."""
    valid = list(valid)
    if not isinstance(value, str) or value not in valid:
        near = difflib.get_close_matches(str(value), valid, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        listed = ", ".join(map(repr, valid))
        raise ValueError(f"{name}={value!r} is unknown{hint}; choose one of {listed}.")
    return value


def _checked(check: Callable[[str, Any], Any], default: Any = dataclasses.MISSING) -> Any:
    return field(default=default, metadata={"check": check})


class _Checked:
    """Runs every field's check when a value is made, and keeps what it returns."""

    def __post_init__(self):
        for one in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, one.name, one.metadata["check"](one.name, getattr(self, one.name)))


# -- the values -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InversionSettings(_Checked):
    """How the image gets into the noise space (Sec. 3, step 1).

    Attributes:
        processing_resolution: images are processed at about this number squared of pixels, at their aspect ratio.
        inversion: "ddpm" (edit-friendly) or "ddim".
        num_inference_steps: N, on the full noise schedule.
        prompt: text condition of every network call; empty in the paper.
    """

    processing_resolution: int = _checked(whole(1, 16384))
    inversion: str = _checked(choice(INVERSIONS), "ddpm")
    num_inference_steps: int = _checked(whole(1), 50)
    prompt: str = _checked(text, "")


@dataclass(frozen=True)
class FeatureSettings(_Checked):
    """Which queries are clustered, and into how many masks (Sec. 3.1).

    Attributes:
        num_masks: K, the number of coarse masks.
        feature_layer: cross-attention layer whose queries are clustered.
        feature_timestep: t_f, at which they are read.
        noise_ensemble_size: number of noise draws over which they are averaged.
    """

    num_masks: int = _checked(whole(1))
    feature_layer: str = _checked(text)
    feature_timestep: int = _checked(whole(0), 1)
    noise_ensemble_size: int = _checked(whole(1), 1)


@dataclass(frozen=True)
class Perturbation(_Checked):
    """What is done to the network while it denoises (Sec. 3.2).

    Attributes:
        modulation_layer: cross-attention layer whose output is modulated.
        modulation_timestep: t_m, the only timestep at which that is done; denoising starts there.
        modulation_strength: λ > 0, added to and subtracted from every channel of the layer's output inside a mask.
        offset_placement: "after_projection" of the layer's output (paper) or "before_projection" (its Fig. 14).
        attention_injection: hold all attention maps at their unmodulated values while denoising.
    """

    modulation_layer: str = _checked(text)
    modulation_timestep: int = _checked(whole(0), 281)
    modulation_strength: float = _checked(real(0, above=True), 10.0)
    offset_placement: str = _checked(choice(PLACEMENTS), "after_projection")
    attention_injection: bool = _checked(flag, True)


@dataclass(frozen=True)
class Shortcuts(_Checked):
    """What modulated denoising leaves out; nothing by default. Each has a measured price (notebook 09).

    Attributes:
        denoising_steps: network evaluations from t_m to x₀, evenly spread; 1 reads x̂₀ right after the modulated one.
            λ is scaled so that the first, larger step moves the latents as far as a step of the full trajectory would.
            None keeps every inference step.
        one_sided: compare −λ with the unmodulated image instead of with +λ: half of the rows.
        readout: "image" decodes every row; "latents" compares latents: no decoding at all.
    """

    denoising_steps: int | None = _checked(whole(1, optional=True), None)
    one_sided: bool = _checked(flag, False)
    readout: str = _checked(choice(READOUTS), "image")


@dataclass(frozen=True)
class Refinement(_Checked):
    """What is done to the difference maps before the argmax, in this order, at the processing size.

    Attributes:
        filter_sigma: standard deviation of the paper's Gaussian filter, in pixels at the processing size; 0 for none.
        guide_radius: radius of a guided filter with the image as guide, in heights of a coarse cell; 0 for none.
    """

    filter_sigma: float = _checked(real(0, 100), 1.0)
    guide_radius: float = _checked(real(0, 100), 0.0)


@dataclass(frozen=True)
class Assignment(_Checked):
    """How responses become segments.

    Attributes:
        num_parts: P, at least K: every pixel gets a feature of its own, its share in each of P small masks times their
            features, and K segments are made of those (:mod:`emerdiff_lib.pixels`); refinement is then of features.
            None: every pixel takes the mask that moved it most (paper).
    """

    num_parts: int | None = _checked(whole(2, optional=True), None)


_GROUPS = {
    "features": FeatureSettings,
    "inversion": InversionSettings,
    "perturbation": Perturbation,
    "shortcuts": Shortcuts,
    "refinement": Refinement,
    "assignment": Assignment,
}
_GROUP_OF = {one.name: group for group, kind in _GROUPS.items() for one in fields(kind)}
NAMES = ("mode", *_GROUP_OF)
REQUIRED = tuple(
    one.name for kind in _GROUPS.values() for one in fields(kind) if one.default is dataclasses.MISSING
)


@dataclass(frozen=True)
class Settings:
    """Every setting of the method, in six groups. Flat names (:data:`NAMES`) are unique: they are the keywords of the
    pipeline, the keys of its outputs' ``settings`` and the parameters of the notebooks."""

    features: FeatureSettings
    inversion: InversionSettings
    perturbation: Perturbation
    shortcuts: Shortcuts
    refinement: Refinement
    assignment: Assignment
    mode: str = "exact"

    def __post_init__(self):
        check_known("mode", self.mode, MODES)
        if self.shortcuts.denoising_steps is not None and self.inversion.inversion != "ddpm":
            raise ValueError(
                "denoising_steps needs inversion='ddpm': larger steps are exact only with recorded noise; leave one of "
                "the two out."
            )

    def to_dict(self) -> dict[str, Any]:
        """All settings by their flat names, ready for JSON."""
        flat = {name: getattr(getattr(self, group), name) for name, group in _GROUP_OF.items()}
        return {"mode": self.mode} | flat

    @classmethod
    def from_dict(cls, flat: Mapping[str, Any]) -> Settings:
        """The inverse of :meth:`to_dict`; names without a default of their own must be there.

        Raises:
            ValueError: an unknown name, a missing one, or a value that is not possible.
        """
        check_names(flat)
        if missing := [name for name in REQUIRED if flat.get(name) is None]:
            raise ValueError(
                f"There is no default here for {', '.join(missing)}; give {'it' if len(missing) == 1 else 'them'}."
            )
        groups = {
            group: kind(**{one.name: flat[one.name] for one in fields(kind) if one.name in flat})
            for group, kind in _GROUPS.items()
        }
        return cls(**groups, mode=flat.get("mode", "exact"))

    def replace(self, **flat: Any) -> Settings:
        """These settings with some changed, by flat name; None leaves a setting as it is. ``mode`` sets what it sets."""
        return Settings.from_dict(layered(flat, self.to_dict()))


def check_names(names: Iterable[str]) -> None:
    """Raises a ValueError for the first name that is no setting, suggesting the nearest that is."""
    for name in names:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"There is no setting {name!r}; {hint}The settings are {', '.join(NAMES)}.")


def check_only(step: str, given: Iterable[str], *kinds: type) -> None:
    """Raises a ValueError for the first name that belongs to none of these groups (nor is ``mode``)."""
    allowed = ["mode", *(one.name for kind in kinds for one in fields(kind))]
    check_names(given)
    if wrong := [name for name in given if name not in allowed]:
        raise ValueError(
            f"{wrong[0]} was settled at an earlier stage; {step} takes {', '.join(allowed)}. Start again from the stage "
            "that it belongs to."
        )


def check_generator(generator: Any) -> None:
    """Raises a ValueError for anything but a ``torch.Generator`` or None."""
    if generator is not None and type(generator).__name__ != "Generator":
        seed = generator if isinstance(generator, int) else 0
        raise ValueError(
            f"generator={generator!r} is not possible; pass torch.Generator().manual_seed({seed})."
        )


def layered(given: Mapping[str, Any], *defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings: what is ``given`` and not None, over what a given mode sets, over the defaults, the first ones first."""
    given = {name: value for name, value in given.items() if value is not None}
    check_names(given)
    flat: dict[str, Any] = {}
    for layer in reversed(defaults):
        flat |= layer
    if "mode" in given:
        flat |= MODES[check_known("mode", given["mode"], MODES)]
    return flat | given
