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
import socket
import sys
import webbrowser
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..datasets.images import one_image
from ..pipeline import load_pipeline
from .widget import page
from .workbench import MODELS, Bench, Cancelled

HOSTS = ("127.0.0.1", "localhost", "::1")  # by another name, a page of somebody else's would ask
LARGEST = 2**28  # bytes of a request, an image that is uploaded


class Handler(BaseHTTPRequestHandler):
    """``GET /`` is the page, ``POST /ask`` answers it: progress and then the answer, a line of JSON each."""

    def __init__(self, bench: Bench, page: str, token: str, *args: Any):
        self.bench, self.page, self.token = bench, page.encode(), token
        super().__init__(*args)

    def do_GET(self) -> None:
        if self._may("/"):
            self._begin("text/html; charset=utf-8")
            self.wfile.write(self.page)

    def do_POST(self) -> None:
        if self._may("/ask"):
            length = int(self.headers.get("Content-Length", 0))
            if length > LARGEST:
                return self.send_error(413)
            request = json.loads(self.rfile.read(length))
            self._begin("application/x-ndjson")
            self._line(self.bench.answer(request, self._tell))

    def _may(self, path: str) -> bool:
        """Whether this is asked for by whoever has the token, under this machine's name; says so where it is not."""
        asked = urlsplit(self.path)
        given = parse_qs(asked.query).get("token", [""])[0]
        if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in HOSTS:
            self.send_error(403, "Another host's name")
        elif not secrets.compare_digest(given.encode(), self.token.encode()):
            self.send_error(403, "Open the address that was printed, with its token")
        elif asked.path != path:
            self.send_error(404)
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
        heard, _, _ = select.select([self.connection], [], [], 0)
        if heard and not self.connection.recv(1, socket.MSG_PEEK):
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
    parser = argparse.ArgumentParser(
        prog="python -m emerdiff_lib.explorer",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", default="", help="folder or hub id; empty: what suits the image")
    parser.add_argument("--image", default="sample:temple", help="what is shown first")
    parser.add_argument("--device", default="", help="empty: a GPU if there is one")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    parser.add_argument("--port", type=int, default=8866)
    parser.add_argument("--no-browser", action="store_true", help="only serve")
    args = parser.parse_args(argv)
    if not 0 <= args.port < 65536:
        sys.exit(f"--port={args.port} is not possible; it is a number from 0 to 65535.")
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
    except OSError as error:
        sys.exit(
            f"--port={args.port} cannot be had ({error.strerror}); choose another, or 0 for any that is free."
        )
    address = f"http://127.0.0.1:{server.server_port}/?token={token}"
    print(f"The explorer is at {address} (Ctrl+C ends it)", flush=True)
    if not args.no_browser:
        webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("Ended.")


if __name__ == "__main__":
    main()
