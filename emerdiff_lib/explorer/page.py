"""The explorer as one HTML page that needs no kernel, no server and no network."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from pathlib import Path

from ..files import write_atomically
from ..responses import ImageResponses
from .payload import payload

HERE = Path(__file__).parent


def page(
    responses: ImageResponses, numbers: Iterable[int] | None = None, title: str = "EmerDiff explorer"
) -> str:
    """A whole HTML document of about two megabytes; ``numbers`` of segments as for :func:`~.payload.payload`."""
    script, style = ((HERE / f"explorer.{kind}").read_text("utf-8") for kind in ("js", "css"))
    script = script.replace("export default { render };", "").replace(
        "export function mount", "function mount"
    )
    data = json.dumps(payload(responses, numbers), separators=(",", ":"))
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title><style>{style}</style></head>
<body><h1>{html.escape(title)}</h1><div id="explorer"></div>
<script type="application/json" id="data">{data}</script>
<script type="module">
{script}
window.explorer = mount(document.getElementById("explorer"), JSON.parse(document.getElementById("data").textContent));
</script></body></html>
"""


def save_page(
    responses: ImageResponses,
    path: Path | str,
    numbers: Iterable[int] | None = None,
    title: str = "EmerDiff explorer",
) -> Path:
    """Write :func:`page` to ``path`` (folders are made) and return it."""
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page(responses, numbers, title))
    return path
