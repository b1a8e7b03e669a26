"""What users copy and write: blocks of the documents, a short program in a plain install, and what a type checker says of it."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from emerdiff_lib.frozen_model import FrozenModel

from .test_repository import PROJECT, ROOT, distribution

SCRIPT = Path(__file__).with_name("user_script.py")
BLOCK = re.compile(r"^```python *([^\n]*)\n(.*?)^```$", re.M | re.S)


def blocks(document: Path) -> list[str]:
    """Python code of a document that is to run: not what is fenced as ``python no-run`` (CONTRIBUTING.md)."""
    fenced = BLOCK.findall(document.read_text())
    assert {mark for mark, _ in fenced} <= {"", "no-run"}, document
    for _, code in fenced:
        compile(code, document.name, "exec")
    return [code for mark, code in fenced if not mark]


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "notebooks" / "guides").glob("*.md"))]


@pytest.fixture
def photo(scene, tmp_path, monkeypatch):
    """A working directory with a photo.jpg that is no square."""
    monkeypatch.chdir(tmp_path)
    scene.image.resize((160, 120)).save("photo.jpg")
    return tmp_path


@pytest.fixture
def few_steps(monkeypatch):
    """Checkpoints whose exact mode takes two steps; the documents are what is tested."""
    whole = FrozenModel.__init__

    def short(self, pipe, default_settings=None, *rest):
        whole(self, pipe, {"denoising_steps": 2, **(default_settings or {})}, *rest)

    monkeypatch.setattr(FrozenModel, "__init__", short)


@pytest.mark.parametrize("document", [one for one in DOCUMENTS if blocks(one)], ids=lambda path: path.stem)
def test_every_python_block_runs_after_those_above_it(document, photo, few_steps):
    namespace = {"__name__": "__main__"}
    for code in blocks(document):
        exec(compile(code, document.name, "exec"), namespace)


def test_a_plain_install_segments_saves_names_and_gives_features_in_twenty_lines(photo):
    """In a process that has no package of the extras that programs use: what looks for one finds none."""
    extras = PROJECT["optional-dependencies"]
    absent = {distribution(one) for extra in ("workbook", "ray", "if", "heif") for one in extras[extra]}
    owners = importlib.metadata.packages_distributions().items()
    refused = [name for name, owner in owners if {distribution(one) for one in owner} <= absent]
    assert {"matplotlib", "seaborn", "ipywidgets", "ray", "papermill"} <= set(refused)
    run = f"import runpy, sys; sys.modules.update(dict.fromkeys({refused})); runpy.run_path({str(SCRIPT)!r})"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True)
    assert done.returncode == 0 and "torchvision" not in done.stderr, done.stderr
    assert done.stdout.count("% of the image") == 3 and (photo / "result" / "overlay.png").exists()
    assert len(SCRIPT.read_text().splitlines()) <= 20


WRONG = {
    'pipe("photo.jpg", num_maks=8)': 'Unexpected keyword argument "num_maks"',
    'pipe("photo.jpg", num_masks="8")': "No overload variant",
    'pipe.cluster("photo.jpg", prompt=3)': '"int"; expected "str | None"',
    'pipe.modulate("photo.jpg")': 'expected "CoarseMasks"',
    "output.lables": '"EmerDiffOutput" has no attribute "lables"',
    "both.labels": '"list[EmerDiffOutput]" has no attribute "labels"',
    "responses.segment(6)": '"ImageResponses" has no attribute "segment"',
    "EmerDiffPipeline.from_pipe(pipe.pipe, num_mask=8)": 'Unexpected keyword argument "num_mask"',
}


def test_a_type_checker_passes_the_program_and_finds_what_is_wrong(tmp_path):
    """mypy --strict in a user's folder. Nothing here is of transformers' types, which take half a minute to read."""
    (tmp_path / "mypy.ini").write_text("[mypy]\n[mypy-transformers.*]\nfollow_imports = skip\n")
    (tmp_path / "right.py").write_text(SCRIPT.read_text())
    (tmp_path / "wrong.py").write_text(SCRIPT.read_text() + "\n".join(WRONG))
    command = [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={ROOT / '.mypy_cache' / 'user'}"]
    done = subprocess.run([*command, "right.py", "wrong.py"], cwd=tmp_path, capture_output=True, text=True)
    first = len(SCRIPT.read_text().splitlines()) + 1
    found = dict.fromkeys(range(first, first + len(WRONG)), "")
    for line in done.stdout.splitlines():
        if place := re.match(r"(\S+\.py):(\d+): error: ", line):
            assert place[1] == "wrong.py", line
            found[int(place[2])] += line
    for said, (code, message) in zip(found.values(), WRONG.items(), strict=True):
        assert message in said, f"{code}: {said}{done.stderr}"
