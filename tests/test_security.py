"""What a stranger's file may not do: run code; and nobody phones home."""

import ast
import os
import re
import subprocess
import sys

import nbformat
import pytest

from .test_repository import LIBRARY, NOTEBOOKS, ROOT, modules

# -- code that runs -------------------------------------------------------------------------------------------------------

NEVER = re.compile(
    r"eval|exec|compile|__import__|os\.(system|popen)|pty\.spawn|subprocess\.get(status)?output|runpy\.run_\w+"
    r"|(pickle|dill|cloudpickle|joblib|shelve)\.(load|open|Unpickler)|(dill|cloudpickle|marshal)\.loads?"
    r"|pandas\.read_pickle|yaml\.(unsafe_|full_)?load(_all)?"
)
BETWEEN_PROCESSES = ("runs/cached_map.py",)  # of one run, which also wrote what is unpickled


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
            or (name == "pickle.loads" and file not in BETWEEN_PROCESSES)
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
        "import pickle as p; p.load(f)",
        "from torch import load; load('w.pt', weights_only=False)",
        "import numpy as np; np.load('a.npy', allow_pickle=True)",
        "from os import system as s; s('ls')",
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


# -- files and the network ----------------------------------------------------------------------------------------------


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
