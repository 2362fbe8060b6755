"""Guard of the server of `semask web`: requests that it answers, and those it refuses by their headers."""

from __future__ import annotations

import asyncio

import pytest

from semask_d2.inference.web_guard import FORM, MAX_UPLOAD, POLICY, PageGuard


def answer(headers: dict[str, str], method: str = "GET", *, host: str = "127.0.0.1", kind: str = "http") -> list[dict]:
    """Return the messages that a guarded application sends for a request; the application itself answers 200."""
    sent: list[dict] = []

    async def application(scope: dict, receive: object, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: dict) -> None:
        sent.append(message)

    pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": kind, "headers": pairs} | ({"method": method} if kind == "http" else {})
    asyncio.run(PageGuard(application, host)(scope, None, send))
    return sent


SERVER = "127.0.0.1:7860"


@pytest.mark.parametrize(
    ("headers", "method"),
    [
        ({"Host": SERVER}, "GET"),
        ({"Host": "localhost:7860"}, "GET"),
        ({"Host": "LOCALHOST"}, "GET"),
        ({"Host": "[::1]:7860"}, "GET"),
        ({"Host": SERVER, "Origin": f"http://{SERVER}"}, "GET"),
        ({"Host": SERVER, "Origin": f"http://{SERVER}", "Content-Length": str(MAX_UPLOAD)}, "POST"),
        ({"Host": "page.example", "Origin": "https://page.example", "Content-Length": "0"}, "POST"),
    ],
)
def test_its_own_page_is_answered(headers: dict[str, str], method: str) -> None:
    (start,) = answer(headers, method, host="page.example" if "page" in headers["Host"] else "127.0.0.1")
    assert start["status"] == 200
    assert (b"content-security-policy", POLICY) in start["headers"]


@pytest.mark.parametrize(
    ("headers", "method", "status", "word"),
    [
        ({"Host": "rebound.example"}, "GET", 403, "Host"),
        ({"Host": "127.0.0.1.rebound.example:7860"}, "GET", 403, "Host"),
        ({"Host": "localhost.rebound.example"}, "GET", 403, "Host"),
        ({"Host": "[::1"}, "GET", 403, "Host"),
        ({"Host": "\xe9"}, "GET", 403, "Host"),
        ({}, "GET", 403, "Host"),
        ({"Host": SERVER, "Origin": "http://other.example"}, "GET", 403, "Origin"),
        ({"Host": SERVER, "Origin": "http://127.0.0.1:7861", "Content-Length": "1"}, "POST", 403, "Origin"),
        ({"Host": SERVER, "Origin": "null", "Content-Length": "1"}, "POST", 403, "Origin"),
        ({"Host": SERVER, "Origin": f"http://{SERVER}@other.example"}, "GET", 403, "Origin"),
        ({"Host": SERVER, "Content-Length": str(MAX_UPLOAD + FORM + 1)}, "POST", 413, "64 MB"),
        ({"Host": SERVER, "Content-Length": "9" * 5000}, "PUT", 413, "64 MB"),
        ({"Host": SERVER, "Transfer-Encoding": "chunked"}, "POST", 411, "Content-Length"),
        ({"Host": SERVER, "Content-Length": "-1"}, "POST", 411, "Content-Length"),
    ],
)
def test_others_are_refused_in_one_line(headers: dict[str, str], method: str, status: int, word: str) -> None:
    start, body = answer(headers, method)
    assert start["status"] == status
    assert word in body["body"].decode()
    assert body["body"].count(b"\n") == 1


def test_sockets_are_guarded_too() -> None:
    assert answer({"Host": "rebound.example"}, kind="websocket") == [{"type": "websocket.close", "code": 1008}]
    assert answer({"Host": SERVER}, kind="websocket")[0]["status"] == 200


def test_a_page_for_all_addresses_is_known_by_the_machines_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Lab")
    assert answer({"Host": "lab:7860"}, host="0.0.0.0")[0]["status"] == 200
    assert answer({"Host": "192.168.0.7:7860"}, host="0.0.0.0")[0]["status"] == 200
    assert answer({"Host": "other:7860"}, host="0.0.0.0")[0]["status"] == 403
    assert answer({"Host": "lab:7860"})[0]["status"] == 403
