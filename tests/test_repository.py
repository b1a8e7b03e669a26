"""What is written down in more than one place agrees."""

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_conda_installs_the_same_list_as_pip():
    """environment.yml holds no versions of its own: it hands everything but Python to pyproject.toml."""
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    conda = [entry for entry in dependencies if isinstance(entry, str)]
    assert pip == ["-e .[test]"] and "pip" in conda
    assert [entry for entry in conda if entry != "pip"] == [
        f"python={PROJECT['requires-python'].removeprefix('>=')}"
    ]


def test_torch_is_pinned_exactly_and_the_rest_compatibly():
    for requirement in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]:
        assert ("==" if requirement.startswith("torch") else "~=") in requirement, requirement


def test_citation_carries_the_version():
    from emerdiff_lib import __version__

    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
