"""What a stranger's file may not do: run code, name another place, be a command, be HTML; and nobody phones home."""

import ast
import html.parser
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from emerdiff_lib.experiments.manifest import write_manifest
from emerdiff_lib.files import write_atomically
from emerdiff_lib.runs import store
from emerdiff_lib.runs.harness import Execution, Report, run
from emerdiff_lib.runs.identity import digest, file_digest
from emerdiff_lib.runs.pictures import find_images
from emerdiff_lib.runs.segment import segment_all

from .run_tasks import Words, items
from .test_repository import LIBRARY, NOTEBOOKS, ROOT, modules

QUIET = {"progress": False}

# -- code that runs -------------------------------------------------------------------------------------------------------

NEVER = re.compile(
    r"eval|exec|compile|__import__|os\.(system|popen)|pty\.spawn|subprocess\.get(status)?output|runpy\.run_\w+"
    r"|(pickle|dill|cloudpickle|joblib|shelve)\.(load|open|Unpickler)|(dill|cloudpickle|marshal)\.loads?"
    r"|pandas\.read_pickle|yaml\.(unsafe_|full_)?load(_all)?"
)
BETWEEN_PROCESSES = {"pickle.loads": "runs/engines.py"}  # of one run, which also wrote it


def dangers(source: str, file: str = "") -> list[str]:
    """The calls of a module that run what a file or a shell says."""
    tree, full, found = ast.parse(source), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom):
            full |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first, dot, rest = ast.unparse(node.func).partition(".")
        name = full.get(first, first) + dot + rest
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if (
            NEVER.fullmatch(name)
            or (name == "pickle.loads" and file != BETWEEN_PROCESSES[name])
            or (name == "torch.load" and options.get("weights_only") != "True")
            or options.get("allow_pickle", "False") != "False"
            or options.get("shell", "False") != "False"
            or options.get("trust_remote_code", "False") != "False"
        ):
            found.append(f"line {node.lineno}: {name}")
    return found


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "import pickle as p; p.load(f)",
        "from pickle import loads; loads(b)",
        "import torch; torch.load('w.pt')",
        "from torch import load; load('w.pt', weights_only=False)",
        "import numpy as np; np.load('a.npy', allow_pickle=True)",
        "import pandas as pd; pd.read_pickle('a')",
        "import subprocess; subprocess.run('ls', shell=True)",
        "from os import system as s; s('ls')",
        "import yaml; yaml.load(f, yaml.Loader)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_a_danger_is_seen(line):
    assert dangers(line) and not dangers(
        "network.eval(); np.load('a', allow_pickle=False); ast.literal_eval(x)"
    )


def test_no_file_is_run_as_code():
    found = {
        name: dangers(path.read_text(), path.relative_to(LIBRARY).as_posix())
        for name, path in modules().items()
    }
    assert not {name: lines for name, lines in found.items() if lines}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_python_and_no_shell(path):
    for number, cell in enumerate(nbformat.read(path, 4).cells):
        if cell.cell_type == "code":
            ast.parse(cell.source)  # ! and % are no Python
            assert "get_ipython" not in cell.source and not dangers(cell.source), f"cell {number}"


# -- records that name another place ------------------------------------------------------------------------------------


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text(f"words of {name}")
    return folder


def signed(record):
    """A record that vouches for itself; anybody can make one."""
    return json.dumps(record | {"checksum": digest(record)} if isinstance(record, dict) else record)


def test_a_folder_s_record_reaches_no_file_outside(texts, tmp_path, monkeypatch):
    secret = tmp_path / "secret.txt"
    secret.write_text("mine")
    task, item = Words(tmp_path / "out" / "deep", store="folder"), items(texts)[0]
    record = task.store.path(item.name) / "request.json"
    run(task, items(texts), **QUIET)
    whole = json.loads(record.read_text())
    del whole["checksum"]
    read, digest_of = [], file_digest
    monkeypatch.setattr(store, "file_digest", lambda path: read.append(Path(path)) or digest_of(path))
    for name in ("../../../secret.txt", str(secret), "..", ".", "", "x/../../../../secret.txt", "/"):
        record.write_text(signed(whole | {"files": {name: file_digest(secret)}}))
        assert run(task, items(texts), **QUIET).states == {"recomputed": 1, "kept": 1}, name
        assert secret.read_text() == "mine"
    assert read and all(path.resolve().is_relative_to(tmp_path / "out") for path in read)


@pytest.mark.parametrize("kind", ["json", "folder"])
def test_a_record_of_any_shape_is_computed_again(texts, tmp_path, kind):
    task, item = Words(tmp_path / "out", store=kind), items(texts)[0]
    run(task, items(texts), **QUIET)
    path = task.store.path(item.name)
    record = path / "request.json" if kind == "folder" else path
    good = record.read_text()
    shapes = [
        [],
        3,
        "x",
        None,
        {},
        {"name": item.name},
        {"files": 3},
        {"files": [[1]]},
        {"run": 1, "files": {}},
    ]
    for text in [*map(signed, shapes), "[" * 100_000, "{", "\0"]:
        record.write_text(text)
        assert run(task, items(texts), **QUIET).states == {"recomputed": 1, "kept": 1}, text[:60]
        assert record.read_text() == good


def test_a_list_of_failures_chooses_among_the_pictures_and_opens_nothing(texts, tmp_path):
    path = tmp_path / "failures.json"
    path.write_text(json.dumps({"../../secret.txt": "", "/etc/passwd": "", "b.txt": ""}))
    assert Execution(only=path).choose(items(texts)) == [items(texts)[1]]
    path.write_text(json.dumps({"../texts/a.txt": "", "a.txt/../b.txt": ""}))
    with pytest.raises(ValueError, match="names none of these 2 pictures"):
        Execution(only=path).choose(items(texts))


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", "a/../../x", "~/x", "x\0y", ".partial", ".lock"])
def test_a_picture_s_name_leads_nowhere_else(tmp_path, name):
    for kind in (store.JsonStore(tmp_path, {}), store.FolderStore(tmp_path, {}, None)):
        place = kind.path(name)
        assert Path(os.path.normpath(place)).is_relative_to(kind.folder) and "\0" not in str(place)
        assert place.name not in (".partial", ".lock", "")


# -- text that is HTML ----------------------------------------------------------------------------------------------------


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.add(tag)


def test_names_are_text_in_what_04_says_it_learnt():
    """As Jupyter's own export renders it."""
    render = pytest.importorskip("nbconvert.filters.markdown_mistune").markdown2html_mistune
    cells = nbformat.read(ROOT / "notebooks" / "04_segmentation.ipynb", 4).cells
    (cell,) = [cell.source for cell in cells if "learnt = " in cell.source]
    shown, report = [], Report()
    report.failures = {
        "<img src=x onerror=alert(1)>.png": "it is <b>no</b> image",
        "[x](http://y) **z**": "x",
    }
    show = {"Markdown": shown.append, "report": report, "results": {}, "record": None}
    setup = next(cell.source for cell in cells if "import check_parameters" in cell.source)
    imports = [node for node in ast.parse(setup).body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "imports", "exec"), show)
    exec(cell, show | {"Markdown": shown.append})
    assert shown and Tags(render(shown[0])).found <= {"ul", "li", "p"}


# -- files and the network ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_what_is_written_is_as_private_as_the_user_says(tmp_path, pipe, texts, mask):
    import matplotlib.pyplot as plt

    before = os.umask(mask)
    try:
        output = tmp_path / "out"
        quick = {"num_masks": 2, "modulation_timestep": 21, "noise_ensemble_size": 1}
        segment_all(pipe, find_images("toyscapes:46-47"), output / "segmented", **quick)
        for kind in ("json", "folder"):
            how, task = Execution(shard="0/1"), Words(output / kind, trouble={"a.txt": "value"}, store=kind)
            run(task, items(texts), how, **QUIET)
        table = {"t": pd.DataFrame({"a": [1]})}
        write_manifest(
            output / "m" / "manifest.json",
            title="",
            question="",
            command="",
            settings={},
            seeds={},
            tables=table,
        )
        write_atomically(output / "text.txt", "x")
        plt.figure().savefig(output / "figure.png")
        plt.close("all")
    finally:
        os.umask(before)
    paths = [output, *output.rglob("*")]
    modes = {path.relative_to(tmp_path): stat.S_IMODE(path.stat().st_mode) for path in paths}
    wrong = {
        str(p): oct(m) for p, m in modes.items() if m != (0o777 if (tmp_path / p).is_dir() else 0o666) & ~mask
    }
    assert len(paths) > 25 and not wrong


def test_nobody_is_called():
    """The library imported whole and a scene segmented, in a process that notes every name looked up and every connection."""
    needed = sorted(name for name in modules() if not name.endswith("__main__"))
    code = f"""
import sys
calls = []
sys.addaudithook(lambda event, about: calls.append((event, str(about))) if event in {{
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}} else None)
import importlib, socket
for name in {needed}:
    importlib.import_module("emerdiff_lib." + name if name else "emerdiff_lib")
from emerdiff_lib import EmerDiffPipeline, Toyscapes
EmerDiffPipeline.from_pretrained("toyscapes")(Toyscapes("test")[46].image, mode="fast", num_masks=2)
assert not calls, calls
try:
    socket.create_connection(("127.0.0.1", 9), 1)
except OSError:
    pass
assert calls, "the hook sees nothing"
"""
    environment = {key: value for key, value in os.environ.items() if "OFFLINE" not in key}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]


# -- the audit ------------------------------------------------------------------------------------------------------------

AUDITS = {
    "clean": ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}', "", 0, "1 packages audited"),
    "vulnerable": (
        '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}]}',
        "",
        1,
        "a 1: CVE-1, mended in 2",
    ),
    "a mirror": (
        '{"dependencies": [{"name": "a", "skip_reason": "not found"}]}',
        "",
        0,
        "Nothing was audited",
    ),
    "offline": ("", "requests.exceptions.ConnectionError", 0, "Nothing was audited"),
    "broken": ("", "No module named pip_audit", 1, "The audit did not run"),
}


def audit(**environment):
    command = [sys.executable, str(ROOT / ".ci" / "audit")]
    run = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)
    return run.returncode, run.stdout + run.stderr


@pytest.mark.parametrize("case", AUDITS)
def test_the_audit_says_what_it_found(tmp_path, case):
    """A stand-in for pip-audit answers."""
    answer, trouble, code, said = AUDITS[case]
    (tmp_path / "pip_audit.py").write_text(
        f"import sys; print({answer!r}, end=''); print({trouble!r}, file=sys.stderr)"
    )
    found = audit(PYTHONPATH=str(tmp_path))
    assert found[0] == code and said in found[1]


def test_the_audit_says_that_it_is_offline(tmp_path):
    pytest.importorskip("pip_audit")
    nowhere = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
    code, said = audit(
        NO_PROXY="", no_proxy="", PIP_CACHE_DIR=str(tmp_path), XDG_CACHE_HOME=str(tmp_path), **nowhere
    )
    assert code == 0 and said.count("\n") == 1 and "no database of vulnerabilities can be reached" in said
