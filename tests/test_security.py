"""What a stranger's file may not do: run code; and nobody phones home."""

import os
import re
import subprocess
import sys

from .test_repository import LIBRARY, NOTEBOOKS, ROOT, modules

# Of what ruff's security rules do not know; torch.load is safe unless it is told otherwise
UNSAFE = re.compile(r"allow_pickle=True|weights_only=False|trust_remote_code=True|unsafe_load|read_pickle")


def test_no_file_is_run_as_code():
    """No eval, exec, shell or pickle, by ruff's security rules; S101 and S603 ask for less than that."""
    between_processes = (
        "emerdiff_lib/runs/cached_map.py:S301"  # of one run, which also wrote what is unpickled
    )
    rules = ["--isolated", "--select=S", "--ignore=S101,S603", f"--per-file-ignores={between_processes}"]
    command = [sys.executable, "-m", "ruff", "check", *rules, "emerdiff_lib", "notebooks"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    for path in (*LIBRARY.rglob("*.py"), *NOTEBOOKS):
        assert not UNSAFE.search(path.read_text()), path


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
