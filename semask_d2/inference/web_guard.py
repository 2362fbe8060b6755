"""Guard of the server of `semask web`: it answers only its own page, under its own name, up to a bounded size.

Any other page in the user's browser can send requests to this machine. If the name of that page is made to point to
this machine (DNS rebinding), it can read the answers, too. Both attacks show in a request's headers.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from urllib.parse import urlsplit

# the browser loads nothing from other servers; gradio's page would, but works without
POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
MAX_UPLOAD = 64 * 2**20  # bytes of an image; a 108-megapixel JPEG from a camera has about 40 MB
FORM = 2**16  # bytes around the image in a request
ALL_ADDRESSES = ("0.0.0.0", "::", "")  # each stands for all addresses of the machine

Send = Callable[[dict], Awaitable[None]]


class PageGuard:
    """ASGI middleware for a page served at `host`: refuse requests that the page would not send, and add POLICY."""

    def __init__(self, app: Callable[..., Awaitable[None]], host: str):
        self.app = app
        self.names = {"localhost", host.casefold()}
        if host in ALL_ADDRESSES:
            self.names |= {socket.gethostname().casefold(), socket.getfqdn().casefold()}

    async def __call__(self, scope: dict, receive: Callable, send: Send) -> None:
        async def send_with_policy(message: dict) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"content-security-policy", POLICY)]
            await send(message)

        refusal = self.check_request(scope) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self.app(scope, receive, send_with_policy)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            status, text = refusal
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": f"{text}\n".encode()})

    def check_request(self, scope: dict) -> tuple[int, str] | None:
        """Return None for a valid request, else the status and the line of text that refuse it."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if not self.is_this_server(host):
            return 403, "this server does not have that name; use its address (Host is refused)"
        if origin is not None and origin.casefold() not in (f"http://{host}".casefold(), f"https://{host}".casefold()):
            return 403, "only this server's own page may send requests to it (Origin is refused)"
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            length = headers.get(b"content-length", "")
            if not length.isdecimal():
                return 411, "a request with content must state its length (Content-Length)"
            if len(length) > 18 or int(length) > MAX_UPLOAD + FORM:
                return 413, f"the limit is {MAX_UPLOAD // 2**20} MB; use a smaller image"
        return None

    def is_this_server(self, host: str) -> bool:
        """Return whether a Host header names this server: by name, or by an address, which rebinding cannot fake."""
        name = host_name(host)
        try:
            ip_address(name)
        except ValueError:
            return name in self.names
        return True


def host_name(host: str) -> str:
    """Return the name or address in a Host header, without the port; "" if the header is malformed."""
    try:
        return (urlsplit(f"//{host}").hostname or "").casefold()
    except ValueError:
        return ""
