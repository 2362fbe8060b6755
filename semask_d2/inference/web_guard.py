"""What the server of `semask web` answers: requests of its own page, of a bounded size, for a name that is its own.

Any page that the user opens elsewhere can send requests to this machine, and, where its name is made to point here (DNS
rebinding), also read the answers. Both show in a request's headers.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from urllib.parse import urlsplit

# the browser may load nothing but from the page's own server: gradio's page would ask others for what it can do without
POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
MAX_UPLOAD = 64 * 2**20  # bytes of a picture; a camera's JPEG of 108 megapixels has some 40 MB
FORM = 2**16  # bytes around the picture in a request
ANYWHERE = ("0.0.0.0", "::", "")  # addresses that stand for all of the machine's

Send = Callable[[dict], Awaitable[None]]


class PageGuard:
    """ASGI middleware around a page served at `host`: refuses what its own page would not send, and adds POLICY."""

    def __init__(self, app: Callable[..., Awaitable[None]], host: str):
        self.app = app
        self.names = {"localhost", host.casefold()}
        if host in ANYWHERE:
            self.names |= {socket.gethostname().casefold(), socket.getfqdn().casefold()}

    async def __call__(self, scope: dict, receive: Callable, send: Send) -> None:
        async def send_with_policy(message: dict) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"content-security-policy", POLICY)]
            await send(message)

        problem = self.problem_of(scope) if scope["type"] in ("http", "websocket") else None
        if problem is None:
            await self.app(scope, receive, send_with_policy)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            status, text = problem
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": f"{text}\n".encode()})

    def problem_of(self, scope: dict) -> tuple[int, str] | None:
        """Return the status and the line that refuse a request, None where it is answered."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if not self.is_here(host):
            return 403, "this server is not known by that name; use its address (Host is refused)"
        if origin is not None and origin.casefold() not in (f"http://{host}".casefold(), f"https://{host}".casefold()):
            return 403, "only this server's own page may send requests to it (Origin is refused)"
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            length = headers.get(b"content-length", "")
            if not length.isdecimal():
                return 411, "a request with content says its length (Content-Length)"
            if len(length) > 18 or int(length) > MAX_UPLOAD + FORM:
                return 413, f"at most {MAX_UPLOAD // 2**20} MB are taken; make the picture smaller"
        return None

    def is_here(self, host: str) -> bool:
        """Return whether a Host header names this server: by an address, which no rebinding can give, or its name."""
        name = host_name(host)
        try:
            ip_address(name)
        except ValueError:
            return name in self.names
        return True


def host_name(host: str) -> str:
    """Return the name or address in a Host header, without its port; "" where it is malformed."""
    try:
        return (urlsplit(f"//{host}").hostname or "").casefold()
    except ValueError:
        return ""
