"""``/`` and its files: plain HTML, CSS and ES modules that call this service as any other client does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

HERE = Path(__file__).resolve().parent
FOLDERS = {"": HERE / "static", "samples/": HERE / "samples"}
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
PAGE = "index.html"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
"""No inline script or style, nothing from elsewhere, and no text that becomes markup: ids and metadata are shown."""
HEADERS = {
    # Kept, but asked for by its ETag each time: after an upgrade no old module meets a new one.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}
METHODS = ["GET", "HEAD"]


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page; ``etag`` is a digest of its content, in quotes."""

    content: bytes
    media_type: str
    etag: str


def assets() -> dict[str, Asset]:
    """Every file of the page by its name below ``/page/``."""
    return dict(_assets())


def _assets() -> Iterator[tuple[str, Asset]]:
    for prefix, folder in FOLDERS.items():
        for path in sorted(folder.iterdir()):
            content = path.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            yield prefix + path.name, Asset(content, MEDIA_TYPES[path.suffix], etag)


def page_router() -> APIRouter:
    """The routes of the page. Its files are read now, so that no name in a request ever becomes a path."""
    router, files = APIRouter(include_in_schema=False), assets()

    async def page(request: Request) -> Response:
        return _answer(request, files[PAGE])

    async def file(request: Request, name: str) -> Response:
        if name not in files or name == PAGE:
            raise HTTPException(404)
        return _answer(request, files[name])

    router.add_api_route("/", page, methods=METHODS)
    router.add_api_route("/page/{name:path}", file, methods=METHODS)
    return router


def _answer(request: Request, asset: Asset) -> Response:
    headers = HEADERS | {"ETag": asset.etag}
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(asset.content, media_type=asset.media_type, headers=headers)
