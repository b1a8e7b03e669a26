"""The public API's types hold together, as the configuration in pyproject.toml has them checked."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_mypy_has_nothing_to_say():
    """A quarter of a minute at first, then seconds: mypy keeps what it knows of torch in .mypy_cache."""
    run = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
