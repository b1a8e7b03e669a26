"""The book: ``sphinx-build notebooks build/book`` makes a static site of all notebooks as they are committed, and of the library.

Nothing is executed. Where it will be read can be told by the environment: BOOK_REPOSITORY (its URL on a forge) adds links to
the sources and, for GitHub, badges that open a notebook in Colab and on Binder; BOOK_BRANCH is its branch.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import emerdiff_lib

HERE, LIBRARY = Path(__file__).parent, Path(emerdiff_lib.__file__).parent
REPOSITORY, BRANCH = os.environ.get("BOOK_REPOSITORY", "").rstrip("/"), os.environ.get("BOOK_BRANCH", "main")

project, author = "EmerDiff workbook", "The EmerDiff workbook authors"
version = release = emerdiff_lib.__version__
html_title = project
extensions = [
    "myst_nb",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",
]
exclude_patterns = [
    "api/modules.rst",
    "runs",
    "results",
    "figures",
    "_build",
    ".ipynb_checkpoints",
    "README.md",
]

# -- notebooks -----------------------------------------------------------------------------------------------------------

nb_execution_mode = "off"  # outputs are shown as they are committed
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type", "myst.xref_missing"]

# -- the library's pages --------------------------------------------------------------------------------------------------

apidoc_modules = [
    {
        "path": str(LIBRARY),
        "destination": "api",
        "separate_modules": True,
        "module_first": True,
        "max_depth": 2,
    }
]
autodoc_default_options = {
    "members": True,
    "ignore-module-all": True,
    "show-inheritance": True,
    "member-order": "bysource",
}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_use_rtype = False
add_module_names = False

# -- looks ------------------------------------------------------------------------------------------------------------------

html_theme = "sphinx_book_theme"
html_show_sourcelink = False
html_sidebars = {"_modules/**": []}  # source files
html_static_path, html_css_files = ["_static"], ["book.css"]
html_theme_options = {
    "path_to_docs": "notebooks",
    "show_navbar_depth": 1,
    "max_navbar_depth": 2,  # the hundred modules of the library are listed on its own page,
    "collapse_navbar": True,  # and its parts are beside the library's pages alone
    "show_toc_level": 2,
    "use_download_button": True,
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the sidebar has the search
}
if REPOSITORY:
    html_theme_options |= {
        "repository_url": REPOSITORY,
        "repository_branch": BRANCH,
        "use_repository_button": True,
        "use_source_button": True,
        "use_issues_button": True,
    }
if REPOSITORY.startswith("https://github.com/"):  # what both services can read
    html_theme_options["launch_buttons"] = {
        "notebook_interface": "jupyterlab",
        "colab_url": "https://colab.research.google.com",
        "binderhub_url": "https://mybinder.org",
    }


# -- which notebooks use what -------------------------------------------------------------------------------------------------


def names_used(code: str) -> Iterator[str]:
    """Dotted names of the library that a notebook's code uses: "emerdiff_lib.plotting.gallery"."""
    known: dict[str, str] = {}
    tree = ast.parse(re.sub(r"(?m)^[%!].*$", "", code))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("emerdiff_lib"):
            known |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            head, *rest = ast.unparse(node).split(".")
            if head in known:
                yield ".".join([known[head], *rest])


def defined_at(name: str) -> str | None:
    """Where a dotted name's function or class is defined, "module.qualified name"; None for modules and plain values."""
    module, rest = name, []
    while module:
        try:
            found = importlib.import_module(module)
            break
        except ImportError:
            module, _, last = module.rpartition(".")
            rest.insert(0, last)
    else:
        return None
    for part in rest:
        found = getattr(found, part, None)
    if inspect.isclass(found) or inspect.isroutine(found):
        return f"{found.__module__}.{found.__qualname__}"
    return None


def usage() -> dict[str, list[str]]:
    """{"module.function": notebooks that use it, by file name without its ending}, methods of the pipeline included."""
    found: dict[str, set[str]] = defaultdict(set)
    methods = {
        f".{name}(": f"{kind.__module__}.{kind.__qualname__}.{name}"
        for kind in (emerdiff_lib.EmerDiffPipeline, emerdiff_lib.ImageResponses)
        for name, value in vars(kind).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    for path in sorted(HERE.glob("*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        for name in set(names_used(code)):
            if place := defined_at(name):
                found[place].add(path.stem)
        for call, place in methods.items():
            if call in code:
                found[place].add(path.stem)
    return {place: sorted(names) for place, names in found.items()}


USAGE = usage()


def link_notebooks(app, what, name, obj, options, lines) -> None:
    """Below a docstring: the notebooks that use what it is of."""
    if names := USAGE.get(name):
        lines += ["", "*Used in* " + ", ".join(f":doc:`/{stem}`" for stem in names), ""]


def skip_foreign(app, what, name, obj, skip, options) -> bool | None:
    """Functions of other libraries that a module imports are none of its own."""
    foreign = inspect.isroutine(obj) and not (getattr(obj, "__module__", None) or "").startswith(
        "emerdiff_lib"
    )
    return True if what == "module" and foreign else None


def list_public_names(app, what, name, obj, options, lines) -> None:
    """Below a package's docstring: what can be imported from it."""
    if what == "module" and hasattr(obj, "__path__"):
        places = [(one, defined_at(f"{name}.{one}")) for one in sorted(dir(obj))]
        links = [f":any:`{n} <{p}>`" for n, p in places if p and p.startswith(f"{name}.")]
        lines += ["", f"From here: {', '.join(links)}."] if links else []


def setup(app) -> None:
    app.connect("autodoc-skip-member", skip_foreign)
    app.connect("autodoc-process-docstring", list_public_names, priority=800)
    app.connect("autodoc-process-docstring", link_notebooks, priority=900)  # after napoleon
