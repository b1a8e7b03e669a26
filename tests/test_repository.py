"""The house is in order: imports go one way, what is written down in more than one place agrees, files keep to their sizes."""

import ast
import graphlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "emerdiff_lib"
CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = CONFIGURATION["project"]
EXTRAS = PROJECT["optional-dependencies"]
GUIDES = sorted((ROOT / "notebooks" / "guides").glob("*.md"))
DOCUMENTS = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *GUIDES]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# From the ground up: a module may import what stands on lower floors and, within its own folder, its neighbours.
# A new module needs a place here.
FLOORS = (
    {"_version", "files", "interventions", "settings", "timing"},
    {"images", "backbones", "evaluation", "loading"},
    {"colours", "predictor", "toyscapes"},
    {"inversion"},
    {"features", "stages"},
    {"clustering", "modulation", "pixels"},
    {"refinement"},
    {"assignment"},
    {"responses", "frozen_model"},
    {"pipeline"},
    {"plotting", "datasets", "words"},
    {"baselines", "explorer", "export", "train"},
    {"runs"},
    {"studies", "benchmark"},  # one floor: these may know each other
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
NEVER = {  # beyond the floors: what some rooms must not know, of ours and of others'
    "evaluation": {"torch", "diffusers", "transformers", "images", "backbones", "settings"},
    "plotting": {"diffusers", "transformers", "pipeline", "frozen_model", "stages", "toyscapes", "backbones"},
    "toyscapes": {"pipeline", "evaluation"},
}


def modules() -> dict[str, Path]:
    """{dotted name below the library: file}; packages by their own name."""
    names = {}
    for path in sorted(LIBRARY.rglob("*.py")):
        parts = path.relative_to(LIBRARY).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


@cache
def imports(name: str) -> tuple[frozenset[str], frozenset[str]]:
    """What a module imports anywhere in its text: (modules of ours, first names of others')."""
    known, path = modules(), modules()[name]
    package = ["emerdiff_lib", *path.relative_to(LIBRARY).parts[:-1]]
    ours, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = f"{base}.{node.module}" if base and node.module else base or str(node.module)
            found = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        else:
            continue
        for full in found:
            first, _, rest = full.partition(".")
            if first != "emerdiff_lib":
                others.add(first)
                continue
            while rest and rest not in known:  # the name of a function or class: its module
                rest = rest.rpartition(".")[0]
            ours.add(rest)
    return frozenset(ours - {name}), frozenset(others)


def room(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize("name", [name for name in modules() if name])
def test_imports_go_one_way(name):
    ours, others = imports(name)
    here, top = room(name), len(FLOORS) - 1
    for other in sorted(ours):
        there = room(other)
        assert there, f"{name} imports from emerdiff_lib itself, which imports it: name the module"
        if there != here:
            upward = FLOOR[there] >= FLOOR[here] and FLOOR[here] != top
            assert not upward, f"{name} imports {other}, which stands on its own floor or above"
    assert not NEVER.get(here, set()) & (others | {room(other) for other in ours}), name


def test_every_module_has_a_floor_and_imports_have_no_cycles():
    assert {room(name) for name in modules()} - {""} == set(FLOOR)
    graphlib.TopologicalSorter({name: imports(name)[0] for name in modules() if name}).prepare()


def distribution(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def test_every_import_is_declared_and_every_dependency_is_used():
    """Plain installs hold all that the library imports, save for plots."""
    owners = importlib.metadata.packages_distributions()
    core = {distribution(requirement) for requirement in PROJECT["dependencies"]}
    workbook = {distribution(requirement) for requirement in EXTRAS["workbook"]}
    used = set()
    for name in modules():
        declared = core | workbook if room(name) in ("plotting", "explorer") else core
        # imported where they are asked for
        declared = declared | {"runs.cached_map": {"ray"}}.get(name, set())
        for other in imports(name)[1] - sys.stdlib_module_names:
            found = {owner.lower().replace("_", "-") for owner in owners.get(other, [other])}
            assert found & declared, f"{name} imports {other}, which pyproject.toml does not declare for it"
            used |= found
    assert not core - used - {"pyarrow"}, "dependencies that nothing imports"  # pandas writes Parquet with it


def test_mypy_has_nothing_to_say():
    """The public API's types; a quarter of a minute at first, then seconds: mypy keeps what it knows of torch."""
    run = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_dependency_has_an_exact_version_within_its_range():
    lines = (ROOT / "constraints.txt").read_text().split()
    exact = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    for text in [*PROJECT["dependencies"], *(one for extra in EXTRAS.values() for one in extra)]:
        needed = Requirement(text)
        if needed.name != PROJECT["name"]:
            assert exact[canonicalize_name(needed.name)] in needed.specifier, text
    for package in importlib.metadata.distributions():  # "3.11 or newer" includes Debian's 3.11.2
        if exact.get(canonicalize_name(package.name)) == package.version:
            assert "3.11.0" in SpecifierSet(package.metadata["Requires-Python"] or ""), package.name


def test_types_and_weights_are_packed():
    packed = CONFIGURATION["tool"]["setuptools"]["package-data"]["emerdiff_lib"]
    weights = [*(LIBRARY / "toyscapes" / "checkpoint").rglob("*.*")]
    for folder in ("toyscapes/relatives", "toyscapes/clip", "streets"):
        weights += (LIBRARY / folder).rglob("*.*")
    for path in (LIBRARY / "py.typed", *weights):
        assert any(path in LIBRARY.glob(pattern) for pattern in packed), path


def test_citation_and_changelog_carry_the_version():
    from emerdiff_lib import __version__

    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_commands_and_files_of_the_documents_exist():
    for document in DOCUMENTS:
        text = document.read_text()
        for module in set(re.findall(r"python -m (emerdiff_lib[\w.]*\w)", text)):
            spec = importlib.util.find_spec(module)
            if spec and spec.submodule_search_locations:
                spec = importlib.util.find_spec(module + ".__main__")
            assert spec, f"{document.name}: python -m {module}"
        paths = r"(?<![\w./-])((?:notebooks|emerdiff_lib|tests)/[\w./-]*[\w/])"
        for path in set(re.findall(paths, text)):
            assert (ROOT / path).exists(), f"{document.name} names {path}"


def test_messages_that_the_guide_explains_are_the_library_s():
    source = " ".join(path.read_text() for path in LIBRARY.rglob("*.py"))
    source = " ".join(re.sub(r'"\s*\n\s*f?"', "", source).split())
    guide = (ROOT / "notebooks" / "guides" / "failures.md").read_text()
    parts = [part.strip(" ;:,.()") for quote in re.findall("“(.*?)”", guide) for part in quote.split("…")]
    assert len(parts) > 30 and [part for part in parts if part not in source] == []


@cache
def tracked() -> tuple[Path, ...]:
    run = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    files = tuple(ROOT / name for name in run.stdout.split("\0") if name)
    if run.returncode or not files:
        pytest.skip("this is no git checkout")
    return tuple(path for path in files if path.exists())


def test_no_large_file_slips_in_and_none_names_a_place_on_its_author_s_machine():
    weights = {LIBRARY / folder for folder in ("toyscapes/checkpoint", "toyscapes/clip", "streets")}
    place = re.compile(r"(?<![\w.])/(?:home|root|work|Users|tmp/\w)[/\w]")
    for path in tracked():
        assert path.stat().st_size <= (20e6 if weights & set(path.parents) else 5e6), path
        if path.suffix not in (".png", ".safetensors"):
            found = place.search(path.read_text(errors="ignore"))
            assert found is None, f"{path.relative_to(ROOT)}: {found[0]}"


def test_modules_are_read_in_one_sitting():
    for name, path in modules().items():
        lines = len(path.read_text().splitlines())
        assert lines <= 450, f"{name} has {lines} lines; an idea more than one has moved in"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_fit_a_screen_and_are_python(path):
    for number, cell in enumerate(nbformat.read(path, 4).cells):
        if cell.cell_type == "code":
            ast.parse(cell.source)  # ! and % are no Python, and could start a shell
            assert "get_ipython" not in cell.source
            lines = cell.source.splitlines()
            most = 50 if "parameters" in cell.metadata.get("tags", []) else 25
            assert len(lines) <= most, f"cell {number} has {len(lines)} lines: {lines[0]}"
            assert max(map(len, lines), default=0) <= 110, f"cell {number}: {max(lines, key=len)}"
