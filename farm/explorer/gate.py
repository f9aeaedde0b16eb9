"""Who may talk to the server: the people in front of it, and no page that they happen to visit.

On loopback no token is needed, but the name that the browser used must be one of this machine: a
foreign name that was made to point here (DNS rebinding) is refused. Anywhere else each request must
carry the token, which the first address brings and a cookie keeps. A request that another site's
page makes (its forms, scripts or images) is refused in both cases.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qsl, urlencode

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
COOKIE: Final = "farm-token"
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    # No other site may load what is here, not even as a script or an image.
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
"""What every answer says to the browser."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A request that is not answered, and why."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The token came in the address: keep it in a cookie, and go to the address without it."""

    to: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Decides about requests. Pure: sees the request's words only."""

    token: str | None
    """What every request must know; None: requests to this machine's own names are enough."""

    def judge(
        self, *, method: str, path: str, query: str, headers: Mapping[str, str]
    ) -> Refusal | Welcome | None:
        """Return why a request is refused or sent elsewhere; None if it may pass.

        `headers` have lower-case names.
        """
        host = headers.get("host", "")
        if self.token is None and _hostname(host) not in LOOPBACK:
            return Refusal(status=421, reason=f"this server does not answer to the name {host!r}")
        if not _is_own(method, host, headers):
            return Refusal(status=403, reason="this request was made by another site's page")
        if self.token is None:
            return None
        pairs = parse_qsl(query, keep_blank_values=True)
        given = dict(pairs).get("token")
        if given is not None and method == "GET" and self._knows(given):
            left = urlencode([pair for pair in pairs if pair[0] != "token"])
            # One slash: two would be the address of another host.
            return Welcome(to="/" + path.lstrip("/") + (f"?{left}" if left else ""))
        if self._knows(_cookie(headers.get("cookie", ""))) or self._knows(
            headers.get("authorization", "").removeprefix("Bearer ")
        ):
            return None
        return Refusal(
            status=401, reason="open the address that `farm serve` printed: it holds the token"
        )

    def _knows(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), (self.token or "").encode())


def _hostname(host: str) -> str:
    """Return a Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()


def _is_own(method: str, host: str, headers: Mapping[str, str]) -> bool:
    """Return whether a request comes from a page of this server, or from no page at all."""
    site = headers.get("sec-fetch-site", "none")
    if site not in {"same-origin", "none"}:
        # Another site may link here; nothing else.
        return method == "GET" and headers.get("sec-fetch-mode") == "navigate"
    if method in {"GET", "HEAD"}:
        return True
    origin = headers.get("origin")
    if origin is not None and origin not in {f"http://{host}", f"https://{host}"}:
        return False
    # A form cannot send JSON, so a request that does was made by a script of ours or by a program.
    return headers.get("content-type", "").partition(";")[0].strip() == "application/json"


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""
