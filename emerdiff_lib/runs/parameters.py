"""What a notebook was asked to do: are its parameters known and of their types, and which picture is it about?

papermill puts what it is given into a cell of its own, behind the one that declares the parameters, and only logs a name
that is not declared there. So a notebook's next cell starts with :func:`check_parameters`, which compares the two.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..checkpoints import RELATIVES
from ..settings import flag, real, text, whole
from ..toyscapes import Scene
from .pictures import find_images


class ParameterError(ValueError):
    """A parameter that cannot be used. A notebook shows its one sentence, without the way there through the library."""

    def _render_traceback_(self) -> list[str]:  # IPython's hook
        return [f"{type(self).__name__}: {self}"]


@contextmanager
def one_sentence() -> Iterator[None]:
    """The library's errors about a bad value or file become :class:`ParameterError` with the same sentence."""
    try:
        yield
    except ParameterError:
        raise
    except (ValueError, OSError) as error:
        raise ParameterError(str(error)) from error


@dataclass(frozen=True)
class Picture:
    """The picture that a notebook is about, and its ground truth where it has one."""

    name: str
    image: Image.Image
    scene: Scene | None


FOREIGN = (
    "The bundled model has seen drawn Toyscapes scenes and nothing else: of other pictures it knows edges and colours, hardly "
    "what they show. For photographs, give a Stable Diffusion's folder: -p model FOLDER (README); for streets, a small model is "
    "bundled: -p model streets."
)


def say_if_foreign(model: str, are_scenes: Iterable[bool]) -> None:
    """Prints :data:`FOREIGN` where a bundled model is to look at pictures that are no Toyscapes scenes."""
    if str(model) in ("toyscapes", *RELATIVES) and not all(are_scenes):
        print(FOREIGN)


def open_picture(image: str, model: str = "") -> Picture:
    """The one picture that a notebook's ``image`` parameter names: "toyscapes:46" or a file.

    Args:
        model: as the notebook names it; :func:`say_if_foreign`.

    Raises:
        ValueError, FileNotFoundError: nothing, or more than one picture, is there.
    """
    sources = find_images(image)
    if len(sources) > 1:
        raise ValueError(
            f"image={image!r} names {len(sources)} pictures and this notebook looks at one; choose one of them, or run "
            "04_segmentation.ipynb for all."
        )
    picture = Picture(sources[0].name, sources[0].load(), sources[0].scene())
    say_if_foreign(model, [picture.scene is not None])
    return picture


def merged_settings(named: Mapping[str, Any], further: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a notebook has parameters for (None: not given), and those of its ``settings`` parameter.

    Raises:
        ValueError: for a setting that stands in both; unknown names and bad values are :meth:`pipe.resolve`'s to refuse.
    """
    given = {name: value for name, value in named.items() if value is not None}
    if twice := [name for name in further if name in given]:
        raise ValueError(
            f"{twice[0]} is given twice, as {given[twice[0]]!r} and in settings as {further[twice[0]]!r}; keep one of them."
        )
    return given | dict(further)


def check_parameters(namespace: Mapping[str, Any]) -> None:
    """Raises a :class:`ParameterError` for an unknown parameter, or one that is not of its declared type.

    Whole numbers and numbers are at least 0; None is possible where it is the default. Does nothing where IPython's history
    of cells is missing (a notebook turned into a script).

    Args:
        namespace: ``globals()`` of the notebook; IPython's ``In`` in it holds the cells run so far.
    """
    declared, given = _declared_and_given(namespace.get("In", []))
    for name in given:
        if name not in declared:
            near = difflib.get_close_matches(name, declared, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ParameterError(
                f"There is no parameter {name!r}{hint}; this notebook has {', '.join(declared)}."
            )
    for name, (kind, default) in declared.items():
        value = namespace[name]
        if value is None and default is None:
            continue
        try:
            _CHECKS[kind](name, value, default)
        except ValueError as error:
            raise ParameterError(str(error)) from None


def _declared_and_given(cells: list[str]) -> tuple[dict[str, tuple[str, Any]], list[str]]:
    """{name: (type, default)} of the latest cell that declares parameters, and the names that the next cell assigns."""
    for index in reversed(range(len(cells))):
        body = _statements(cells[index])
        if body and all(isinstance(statement, ast.AnnAssign) for statement in body):
            declared = {s.target.id: (ast.unparse(s.annotation), ast.literal_eval(s.value)) for s in body}
            following = _statements(cells[index + 1]) if index + 1 < len(cells) else []
            assigned = all(isinstance(s, ast.Assign) and _is_literal(s.value) for s in following)
            return declared, [s.targets[0].id for s in following] if assigned else []
    return {}, []


def _statements(cell: str) -> list[ast.stmt]:
    try:
        return ast.parse(cell).body
    except SyntaxError:  # a cell with a magic command
        return []


def _is_literal(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except ValueError:  # papermill writes float('nan') for what has no literal
        return isinstance(value, ast.Call)
    return True


def _check_list(name: str, value: Any, default: Any) -> None:
    if not isinstance(value, list) or (default and not value):
        shown = default or ["…"]
        raise ValueError(
            f"{name}={value!r} is not possible; it is a list, as in papermill's -y '{name}: {shown}'."
        )
    for element in value:
        if default and isinstance(default[0], str):
            text(f"an element of {name}", element)
        elif default and isinstance(default[0], int | float):
            (whole if isinstance(default[0], int) else real)(0)(f"an element of {name}", element)


def _check_dict(name: str, value: Any, default: Any) -> None:
    if not isinstance(value, dict):
        example = default or {"guide_radius": 1.5}
        raise ValueError(
            f"{name}={value!r} is not possible; it is a mapping, as in papermill's -y '{name}: {example}'."
        )


_CHECKS: dict[str, Callable[[str, Any, Any], Any]] = {
    "int": lambda name, value, default: whole(0)(name, value),
    "float": lambda name, value, default: real(0)(name, value),
    "bool": lambda name, value, default: flag(name, value),
    "str": lambda name, value, default: text(name, value),
    "list": _check_list,
    "dict": _check_dict,
}
