"""Voilà, opened with its token; run by its path, so that nothing of the library is in memory beside the kernels."""

import sys
import webbrowser
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from voila.app import Voila

PAGE = """# EmerDiff explorer

Pick an image and settings, press *Compute*, then click, drag and paint: segments, the cells behind a pixel, the pixels behind
a cell, the response to a mask of your own. Compute the other side with other settings to compare."""
CODE = """import json, os
from emerdiff_lib import load_pipeline
from emerdiff_lib.explorer import Workbench

given = json.loads(os.environ["EMERDIFF_EXPLORER"])
os.chdir(given["folder"])
try:
    bench = Workbench(load_pipeline(given["model"], given["device"], given["dtype"]), given["image"])
except (OSError, ValueError) as error:
    bench = str(error)
bench"""


class Application(Voila):
    def launch_browser(self):
        webbrowser.open(f"{self.connection_url}?token={self.identity_provider.token}")


if __name__ == "__main__":
    cells = [nbformat.v4.new_markdown_cell(PAGE), nbformat.v4.new_code_cell(CODE)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "explorer.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
        Application.launch_instance([str(path), *sys.argv[1:]])
