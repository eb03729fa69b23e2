"""The page of the service: files of the package, served as they are."""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI, Response

FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/tape.js": ("tape.js", "text/javascript"),
}
"""The file at each address, and its type."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
        " media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def add_page(app: FastAPI) -> None:
    """Serve the page at the root."""
    folder = files("farvox.service") / "static"
    for address, (name, kind) in FILES.items():
        answer = Response((folder / name).read_bytes(), headers=HEADERS, media_type=kind)
        app.add_api_route(address, lambda answer=answer: answer, methods=["GET"], include_in_schema=False)
