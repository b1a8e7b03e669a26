"""What every notebook does first and last, in one line each: ``nb = Notebook("06", globals())`` … ``nb.finish(…)``."""

from __future__ import annotations

import ast
import json
import shlex
import sys
import traceback
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from .. import plotting
from ..files import folder_path
from ..settings import check_names, flag, real, suggestion, text, whole
from .cached_map import check_execution
from .manifest import read_manifest, write_manifest

LIBRARY = str(Path(__file__).parents[1])


class Notebook:
    """A notebook's start: parameters checked, figures in the workbook's style, no gradients, the library's errors in a line.

    Args:
        number: of the notebook, which the names of its figures begin with.
        namespace: ``globals()`` of the notebook, its parameters among them.

    Attributes:
        execution: ``workers``, ``engine`` and ``shard`` where the notebook has them, for :func:`~.cached_map.cached_map`.
        figures: the folder ``figures_dir`` (:class:`~emerdiff_lib.plotting.FigureFolder`).

    Raises:
        ValueError: a parameter that is unknown or not of its declared type, or a figures_dir that cannot be written to.
    """

    def __init__(self, number: str, namespace: MutableMapping[str, Any]):
        if (shell := namespace.get("get_ipython")) is not None:
            shell().set_custom_exc((ValueError, OSError), _show_error)
        self.declared, self._namespace = check_parameters(namespace), namespace
        if "output_dir" in namespace:
            folder = folder_path("output_dir", namespace["output_dir"])
            namespace["output_dir"] = str(folder)
            if (folder / "manifest.json").exists():  # somebody else's stops the run before it begins
                read_manifest(folder)
        torch.set_grad_enabled(False)
        plotting.use_style()
        self.figures = plotting.FigureFolder(namespace.get("figures_dir", ""), number)
        self.show = self.figures.show
        names = [name for name in ("workers", "engine", "shard") if name in namespace]
        self.execution = {name: namespace[name] for name in names}
        check_execution(**self.execution)

    def finish(self, notebook: str, title: str, question: str, **manifest: Any) -> None:
        """Write ``manifest.json`` into the notebook's output_dir.

        Args:
            notebook: the name of its file, without the ending; the parameters that are not the defaults follow it.
            manifest: what :func:`~.manifest.write_manifest` takes besides the path and the command.
        """
        command = f"papermill notebooks/{notebook}.ipynb out.ipynb"
        for name, (_, default) in self.declared.items():
            if (value := self._namespace[name]) != default and name not in _NOT_IN_COMMANDS:
                command += _option(name, value)
        path = Path(self._namespace["output_dir"]) / "manifest.json"
        write_manifest(path, title=title, question=question, command=command, **manifest)
        here = path.is_relative_to(Path.cwd())
        print(f"Tables and sentences are in {path.relative_to(Path.cwd()) if here else path}.")


_NOT_IN_COMMANDS = ("output_dir", "figures_dir", "workers", "engine", "shard", "device", "root")


def _show_error(
    shell: Any, kind: type, error: BaseException, trace: Any, tb_offset: int | None = None
) -> None:
    """Errors that the library raises are one sentence; those of others, and of bugs, keep their traceback."""
    sys.last_type, sys.last_value, sys.last_traceback = kind, error, trace  # %tb shows all of it
    if traceback.extract_tb(trace)[-1].filename.startswith(LIBRARY):
        shell._showtraceback(kind, error, [f"{kind.__name__}: {error}"])
    else:
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)


def merged_settings(named: Mapping[str, Any], further: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a notebook has parameters for (None: not given), and those of its ``settings`` parameter.

    Raises:
        ValueError: for a setting that stands in both, or is unknown; bad values are :meth:`pipe.resolve`'s to refuse.
    """
    check_names(further)
    given = {name: value for name, value in named.items() if value is not None}
    if twice := [name for name in further if name in given]:
        raise ValueError(
            f"{twice[0]} is given twice, as {given[twice[0]]!r} and in settings as {further[twice[0]]!r}; keep one of them."
        )
    return given | dict(further)


def check_parameters(namespace: MutableMapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """{parameter: (type, default)} of a notebook; those given are known and of their declared types.

    papermill puts what it is given into a cell behind the one that declares the parameters, and only logs a name that is not
    declared there. Whole numbers and numbers are at least 0; None is possible where it is the default.

    Args:
        namespace: ``globals()`` of the notebook; IPython's ``In`` in it holds the cells run so far. Without it (a notebook
            turned into a script), nothing is checked.

    Raises:
        ValueError: a parameter that is unknown, or not of its declared type.
    """
    declared, given = _declared_and_given(namespace.get("In", []))
    for name in given:
        if name not in declared:
            hint, known = suggestion(name, declared), ", ".join(declared)
            raise ValueError(f"There is no parameter {name!r}{hint}; this notebook has {known}.")
    for name, (kind, default) in declared.items():
        if kind == "str" and type(namespace[name]) is int:  # papermill's idea of an image called 2024
            namespace[name] = str(namespace[name])
        if namespace[name] is not None or default is not None:
            _check(name, kind, namespace[name], default)
    return declared


def _declared_and_given(cells: Sequence[str]) -> tuple[dict[str, tuple[str, Any]], list[str]]:
    """{name: (type, default)} of the latest cell that declares parameters, and the names that papermill's next cell sets."""
    for cell, following in reversed(list(pairwise([*cells, ""]))):
        with suppress(SyntaxError):  # a cell with a magic command
            body = ast.parse(cell).body
            if body and all(isinstance(statement, ast.AnnAssign) for statement in body):
                declared = {s.target.id: (ast.unparse(s.annotation), ast.literal_eval(s.value)) for s in body}
                injected = ast.parse(following).body if following.startswith("# Parameters") else []
                return declared, [statement.targets[0].id for statement in injected]
    return {}, []


def _option(name: str, value: Any) -> str:
    """papermill's option for a parameter, as a shell takes it."""
    if isinstance(value, list | dict):
        return " -y " + shlex.quote(f"{name}: {json.dumps(value, ensure_ascii=False)}")
    return f" -p {name} {shlex.quote(str(value))}"


_CHECKS = {"int": whole(0, 2**63 - 1), "float": real(0), "bool": flag, "str": text}


def _check(name: str, kind: str, value: Any, default: Any) -> None:
    if kind in _CHECKS:
        _CHECKS[kind](name, value)
    elif type(value).__name__ != kind or (kind == "list" and default and not value):
        example = default or {"list": ["…"], "dict": {"guide_radius": 1.5}}[kind]
        example = example[:2] if kind == "list" else example
        raise ValueError(
            f"{name}={value!r} is not possible; it is a {kind}, as in papermill's{_option(name, example)}"
        )
    elif kind == "list" and default:
        for element in value:
            _CHECKS[type(default[0]).__name__](f"an element of {name}", element)
