"""The explorer as an application: ``python -m emerdiff_lib.explorer`` serves it alone, in a browser.

One process holds the models and answers all pages; when it ends, all ends. Whoever opens a page needs the token that is
printed, and requests under another host's name are refused.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import select
import sys
import webbrowser
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from ..datasets.images import one_image
from ..pipeline import load_pipeline
from .widget import page
from .workbench import MODELS, Bench, Cancelled

HOSTS = ("127.0.0.1", "localhost", "::1")  # by another name, a page of somebody else's would ask


class Handler(BaseHTTPRequestHandler):
    """``GET`` is the page, ``POST`` answers it: progress and then the answer, a line of JSON each."""

    def __init__(self, bench: Bench, page: str, token: str, *args: Any):
        self.bench, self.page, self.token = bench, page.encode(), token
        super().__init__(*args)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ValueError, OverflowError, RecursionError):  # a host, a length or JSON that cannot be read
            self.send_error(400)

    def do_GET(self) -> None:
        if self._may():
            self._begin("text/html; charset=utf-8")
            self.wfile.write(self.page)

    def do_POST(self) -> None:
        if self._may():
            length = int(self.headers.get("Content-Length", ""))
            request = json.loads(self.rfile.read(max(0, length)))  # a negative one would be read for ever
            self._begin("application/x-ndjson")
            with suppress(Cancelled):  # a page that was closed hears no answer
                self._line(self.bench.answer(request, self._tell))

    def _may(self) -> bool:
        """Whether this is asked for by whoever has the token, under this machine's name; says so where it is not."""
        given = parse_qs(urlsplit(self.path).query).get("token", [""])[0]
        if urlsplit(f"//{self.headers['Host']}").hostname not in HOSTS:
            self.send_error(403, "Another host's name")
        elif not secrets.compare_digest(given.encode(), self.token.encode()):
            self.send_error(403, "Open the address that was printed, with its token")
        else:
            return True
        return False

    def _begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()

    def _tell(self, share: float) -> None:
        """Raises :class:`~.workbench.Cancelled` where nobody waits any more: "Cancel" and a closed page hang up."""
        if select.select([self.connection], [], [], 0)[0]:  # nothing more is sent, so that this is the end
            raise Cancelled
        self._line({"progress": share})

    def _line(self, answer: dict[str, Any]) -> None:
        try:
            self.wfile.write(json.dumps(answer).encode() + b"\n")
        except ConnectionError as error:
            raise Cancelled from error

    def log_message(self, *args: Any) -> None:
        """Addresses have the token in them."""


def main(argv: list[str] | None = None) -> None:
    usual = " (%(default)s if it is not given)"
    parser = argparse.ArgumentParser("python -m emerdiff_lib.explorer", description=__doc__)
    parser.add_argument("--model", default="", help="folder or hub id; empty: what suits the image")
    parser.add_argument("--image", default="sample:temple", help="what is shown first" + usual)
    parser.add_argument("--device", default="", help="empty: a GPU if there is one")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16" + usual)
    parser.add_argument("--port", type=int, default=8866, help="0 for a free one" + usual)
    parser.add_argument("--no-browser", action="store_true", help="only serve")
    args = parser.parse_args(argv)
    bench = Bench(partial(load_pipeline, device=args.device, dtype=args.dtype), MODELS)
    first = {"image": args.image, "model": args.model}
    try:  # what can be wrong is said before anything is served
        one_image(args.image)
        bench.pipe(first)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    token = os.environ.get("EMERDIFF_TOKEN") or secrets.token_urlsafe(16)
    handler = partial(Handler, bench, page(first, mount="mountApplication"), token)
    try:
        server = ThreadingHTTPServer(("127.0.0.1", args.port), handler)
    except (OSError, OverflowError) as error:
        sys.exit(f"--port={args.port} is not possible ({error}); choose another, or 0 for a free one.")
    address = f"http://127.0.0.1:{server.server_port}/?token={quote(token)}"
    print(f"The explorer is at {address} (Ctrl+C ends it)", flush=True)
    if not args.no_browser:
        webbrowser.open(address)
    with suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
