"""`farm serve`: the explorer over HTTP, live and with votes.

The same page and the same data as the static one, made when asked for. What changes in the output
is told by server-sent events; votes go into the output before they are answered. The server keeps
nothing of its own: kill it, start it again, and everything is as it was.

Starlette and uvicorn are imported here alone, and only when somebody serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import mimetypes
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from farm.errors import FarmError, InputError, MissingLibraryError, StoreError
from farm.explorer import chunks
from farm.explorer.gallery import PAGE, SERVED_ONLY, page_files
from farm.explorer.gate import COOKIE, HEADERS, LOOPBACK, Gate, Refusal, Welcome
from farm.explorer.jobs import Jobs, logs_of
from farm.explorer.live import Showing
from farm.explorer.watching import overview
from farm.store import Store, layout
from farm.store.files import check_name, open_files
from farm.store.votes import Vote, VoteKind
from farm.view.ranking import rank_votes
from farm.view.thumbnails import Thumbnails

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

DEFAULT_PORT: Final = 8765
MOST_VOTES: Final = 1_000
"""Votes of one request."""
MOST_BODY: Final = 1_000_000
_LOOK_S = 1.0
"""Between two looks at a folder that somebody is watching."""
_LOOK_FAR_S = 5.0
"""The same for an object store, where each look is a request that costs money."""
_HEARTBEAT_S = 15.0
"""A silent connection is kept alive by a comment so often."""
_FOREVER = "private, max-age=31536000, immutable"
"""Images and thumbnails are never replaced by others of the same name."""


class Explorer:
    """The answers of a server of one output; job files below `folder` may be submitted.

    Raises:
        OutputError: there is no readable output.
    """

    def __init__(self, output: str, *, rater: str, folder: Path) -> None:
        store = Store.open(output)
        self.store = store
        self.rater = rater
        self.files = open_files(store.url)
        self.thumbnails = Thumbnails(self.files)
        self.is_far = "://" in store.url
        self.showing = Showing(store, root="files/", served={"rater": rater})
        self.logs = folder / layout.LOGS if self.is_far else Path(store.url, layout.LOGS)
        self.jobs = Jobs(folder, logs=self.logs)
        self.pages = {*page_files(), *SERVED_ONLY}
        self._listeners: set[asyncio.Event] = set()
        self._closing = False

    # --- the page and its data ---

    async def page(self, request: Request) -> Response:
        """Answer with a file of the page."""
        from starlette.responses import FileResponse

        asked = request.path_params.get("name", "")
        name = {"": "index.html", "run": "run.html"}.get(asked, asked)
        if name not in self.pages:
            return _told({"error": f"there is no page '{name}'"}, status=404)
        return FileResponse(PAGE / name, headers={"cache-control": "no-cache"})

    async def data(self, request: Request) -> Response:
        """Answer with a data script, of the revision that the page has seen."""
        name = request.path_params["name"]
        kind, _, number = name.removesuffix(".js").partition("-")
        if kind == "meta":
            await self._refresh()
            return _script(chunks.meta_script(self.showing.meta()))
        makers = {"rows": chunks.rows_script, "details": chunks.details_script}
        if kind not in makers or not number.isdigit():
            return _told({"error": f"there is no data '{name}'"}, status=404)
        asked = request.url.query
        revision = int(asked) if asked.isdigit() else self.showing.revision
        exhibit = self.showing.state(revision)
        if exhibit is None:  # the page sees by the number that it is behind, and loads anew
            revision, exhibit = self.showing.revision, self.showing.exhibit
        make = partial(makers[kind], exhibit, int(number), revision=revision)
        return _script(await asyncio.to_thread(make))

    async def file(self, request: Request) -> Response:
        """Answer with an image, or a thumbnail that is made if there is none yet."""
        from starlette.responses import Response

        path = request.path_params["path"]
        try:
            data = await asyncio.to_thread(self._file, path)
        except (FileNotFoundError, ValueError, InputError):
            return _told({"error": "there is no such image"}, status=404)
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        return Response(data, media_type=kind, headers={"cache-control": _FOREVER})

    def _file(self, path: str) -> bytes:
        image = layout.thumbnail_image(path)
        if image is not None:
            return self.thumbnails.get(image, chunks.THUMBNAIL_SIZE)
        if not path.startswith(f"{layout.IMAGES}/"):
            raise FileNotFoundError(path)
        return self.files.get(check_name(path))

    # --- what changes ---

    async def _refresh(self) -> None:
        """Look at the output, and tell the listeners if it changed. A failure may pass."""
        with contextlib.suppress(StoreError):
            if await asyncio.to_thread(self.showing.refresh):
                self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener.set()

    async def look(self) -> None:
        """Look at the output again and again, as long as anybody is listening."""
        loop = asyncio.get_running_loop()
        while True:
            if self._listeners:
                start = loop.time()
                await self._refresh()
                # Reading a large catalog must not become all that the machine does.
                pause = 4 * (loop.time() - start)
            else:
                pause = 0.0
            await asyncio.sleep(max(pause, _LOOK_FAR_S if self.is_far else _LOOK_S))

    def close(self) -> None:
        """End all streams, so that the server can end."""
        self._closing = True
        self._tell()

    async def events(self, _request: Request) -> Response:
        """Answer with a stream that names the latest revision whenever there is a new one."""
        from starlette.responses import StreamingResponse

        return StreamingResponse(
            self._stream(), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    async def _stream(self) -> AsyncIterator[str]:
        changed = asyncio.Event()
        self._listeners.add(changed)
        try:
            yield f"retry: 2000\ndata: {json.dumps({'revision': self.showing.revision})}\n\n"
            while not self._closing:
                try:
                    await asyncio.wait_for(changed.wait(), _HEARTBEAT_S)
                except TimeoutError:
                    yield ": still here\n\n"
                    continue
                changed.clear()
                yield f"data: {json.dumps({'revision': self.showing.revision})}\n\n"
        finally:
            self._listeners.discard(changed)

    async def changes(self, request: Request) -> Response:
        """Answer with what differs from the revision that the page has."""
        since = request.query_params.get("since", "")
        revision = int(since) if since.isdigit() else -1
        return _told(await asyncio.to_thread(self.showing.changes, revision))

    # --- votes ---

    async def vote(self, request: Request) -> Response:
        """Keep votes, and answer once they are in the output."""
        body = await _body(request)
        votes = [self._vote(one, body.get("rater")) for one in _list(body, "votes")]
        if not votes:
            raise InputError("there is no vote in this request")
        await asyncio.to_thread(self.store.vote, votes)
        await self._refresh()
        return _told({"revision": self.showing.revision})

    def _vote(self, told: Any, rater: Any) -> Vote:  # noqa: ANN401 - JSON
        if not isinstance(told, dict):
            raise InputError("a vote is a JSON object")
        try:
            kind = VoteKind(str(told.get("kind")))
        except ValueError:
            raise InputError(f"there is no vote of kind {told.get('kind')!r}") from None
        value = told.get("value")
        other = told.get("other")
        axis = told.get("axis")
        return Vote(
            kind=kind,
            task_id=self._task(told.get("id")),
            other_id=None if other is None else self._task(other),
            value=tuple(value) if isinstance(value, list) else value,
            axis=axis if isinstance(axis, str) else None,
            rater=rater if isinstance(rater, str) and rater.strip() else self.rater,
        )

    def _task(self, short: Any) -> str:  # noqa: ANN401 - JSON
        task = self.showing.task_of(short) if isinstance(short, str) else None
        if task is None:
            raise InputError(f"there is no image {short!r} in this output")
        return task

    async def mine(self, request: Request) -> Response:
        """Answer with what one rater's votes are now."""
        rater = request.query_params.get("rater") or self.rater
        short = dict(
            zip(
                self.showing.exhibit.table["task_id"].to_pylist(),
                self.showing.exhibit.ids,
                strict=True,
            )
        )
        found: dict[str, dict[str, Any]] = {}
        pairs = []
        for vote in self.showing.ballot.votes:
            if vote.rater != rater or vote.task_id not in short:
                continue
            if vote.kind is VoteKind.COMPARISON:
                pairs.append([short[vote.task_id], short.get(vote.other_id or "", "")])
            else:
                found.setdefault(short[vote.task_id], {})[vote.kind] = vote.value
        return _told({"votes": found, "pairs": pairs})

    async def ranking(self, request: Request) -> Response:
        """Answer with the ranking of a column's values."""
        by = request.query_params.get("by", "")
        table = self.showing.exhibit.table
        if by not in table.column_names:
            raise InputError(f"the catalog has no column '{by}'")
        values = dict(zip(table["task_id"].to_pylist(), table[by].to_pylist(), strict=True))
        found = await asyncio.to_thread(rank_votes, self.showing.ballot.votes, values, by=by)
        return _told(found.to_json())

    # --- runs ---

    async def status(self, _request: Request) -> Response:
        """Answer with the state of the output, its workers, failures and logs."""
        told = await asyncio.to_thread(
            overview, self.store.url, self.showing.exhibit.table, kept=logs_of(self.logs)
        )
        return _told(told | {"started": self.jobs.started()})

    async def job_files(self, _request: Request) -> Response:
        """Answer with the job files that may be submitted."""
        files = await asyncio.to_thread(self.jobs.files)
        return _told({"folder": str(self.jobs.folder), "files": files})

    async def plan(self, request: Request) -> Response:
        """Answer with the plan of a job file."""
        name = str((await _body(request)).get("job"))
        planned = await asyncio.to_thread(self.jobs.plan, name)
        text = await asyncio.to_thread(self.jobs.path_of(name).read_text, "utf-8", "replace")
        return _told({"plan": planned.plan, "problems": planned.problems, "text": text})

    async def submit(self, request: Request) -> Response:
        """Start a run of a job file."""
        body = await _body(request)
        start = partial(
            self.jobs.submit, str(body.get("job")), retry_failed=body.get("retry_failed") is True
        )
        return _told({"log": await asyncio.to_thread(start)})

    async def stop(self, request: Request) -> Response:
        """Stop a run that was started from here."""
        self.jobs.stop(str((await _body(request)).get("log")))
        return _told({})


# --- HTTP ---------------------------------------------------------------------------------------


def _told(value: dict[str, Any], *, status: int = 200) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(value, status_code=status, headers={"cache-control": "no-store"})


def _script(data: bytes) -> Response:
    from starlette.responses import Response

    return Response(data, media_type="text/javascript", headers={"cache-control": "no-store"})


async def _body(request: Request) -> dict[str, Any]:
    """Return the JSON object of a request.

    Raises:
        InputError: it is none, or too large.
    """
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > MOST_BODY:
            raise InputError("this request is too large")
    try:
        found = json.loads(data)
    except ValueError:
        raise InputError("this request is no JSON") from None
    if not isinstance(found, dict):
        raise InputError("this request is no JSON object")
    return found


def _list(body: dict[str, Any], name: str) -> list[Any]:
    found = body.get(name)
    if not isinstance(found, list) or len(found) > MOST_VOTES:
        raise InputError(f"'{name}' must be a list of at most {MOST_VOTES:,}")
    return found


class _Guarded:
    """The gate in front of an application, and its words on every answer."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.responses import PlainTextResponse, RedirectResponse

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        verdict = self._gate.judge(
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode("latin-1"),
            headers=headers,
        )

        async def say(message: Any) -> None:  # noqa: ANN401 - ASGI
            if message["type"] == "http.response.start":
                said = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *said]
            await send(message)

        match verdict:
            case Refusal():
                answer = PlainTextResponse(verdict.reason + "\n", status_code=verdict.status)
                await answer(scope, receive, say)
            case Welcome():
                move = RedirectResponse(verdict.to, status_code=303)
                move.set_cookie(
                    COOKIE, self._gate.token or "", httponly=True, samesite="strict", path="/"
                )
                await move(scope, receive, say)
            case None:
                await self._app(scope, receive, say)


def make_app(explorer: Explorer, *, token: str | None) -> ASGIApp:
    """Return the ASGI application of an explorer; see `Gate` for what a token means."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        looking = asyncio.create_task(explorer.look())
        yield
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking

    async def explained(_request: Request, error: Exception) -> Response:
        status = 400 if isinstance(error, InputError) else 503
        return _told({"error": str(error)}, status=status)

    posts = {
        "votes": explorer.vote,
        "plan": explorer.plan,
        "submit": explorer.submit,
        "stop": explorer.stop,
    }
    gets = {
        "changes": explorer.changes,
        "mine": explorer.mine,
        "ranking": explorer.ranking,
        "status": explorer.status,
        "jobs": explorer.job_files,
    }
    app = Starlette(
        routes=[
            Route("/events", explorer.events),
            Route("/data/{name}", explorer.data),
            Route("/files/{path:path}", explorer.file),
            *(Route(f"/api/{name}", act, methods=["POST"]) for name, act in posts.items()),
            *(Route(f"/api/{name}", act) for name, act in gets.items()),
            Route("/{name}", explorer.page),
            Route("/", explorer.page, name="index"),
        ],
        lifespan=lifespan,
        exception_handlers={FarmError: explained},
    )
    return _Guarded(app, Gate(token=token))


# --- the process --------------------------------------------------------------------------------


def serve(
    output: str,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    token: str | None = None,
    rater: str | None = None,
    on_start: Callable[[str], None],
    until: threading.Event | None = None,
) -> None:
    """Serve the explorer of an output until Ctrl-C.

    Args:
        output: folder or URL.
        host: address to listen on; any but this machine's own needs a token.
        port: port to listen on; by default 8765, or any free one if that is taken.
        token: what visitors must know; by default none on loopback, and a fresh one elsewhere.
        rater: whose votes those are that name nobody.
        on_start: is told the address to open, once it answers.
        until: the server ends when this is set; for servers in a thread.

    Raises:
        OutputError: there is no readable output at `output`.
        InputError: the address cannot be listened on.
        MissingLibraryError: the extra `web` is not installed.
    """
    if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
        raise MissingLibraryError(
            f"serving needs what is not installed: {', '.join(missing)}",
            hint="pip install 'farm[web]'",
        )
    import uvicorn

    if not token and host not in LOOPBACK:
        token = secrets.token_urlsafe(16)  # an empty one is none
    explorer = Explorer(output, rater=rater or _user(), folder=Path.cwd())
    app = make_app(explorer, token=token or None)
    listening = _listen(host, port)
    address = f"http://{_spelled(host)}:{listening.getsockname()[1]}/"
    if token:
        address += f"?token={token}"

    class Server(uvicorn.Server):
        """Tells its address once it answers, and ends its streams before it waits for them."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                on_start(address)

        async def on_tick(self, counter: int) -> bool:
            if until is not None and until.is_set():
                self.should_exit = True
            return await super().on_tick(counter)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            explorer.close()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=3, lifespan="on",
        ws="none",
    )  # fmt: skip
    with listening, contextlib.suppress(KeyboardInterrupt):
        Server(config).run(sockets=[listening])


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may have nobody
        return "somebody"


def _spelled(host: str) -> str:
    """Return a host as an address has it; a server that listens everywhere is named by its name."""
    if host in {"0.0.0.0", "::", ""}:  # noqa: S104 - compared, not listened on
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _listen(host: str, port: int | None) -> socket.socket:
    """Return a listening socket; without a wish, the usual port or any free one.

    Raises:
        InputError: the address cannot be listened on.
    """
    wishes = (port,) if port is not None else (DEFAULT_PORT, 0)
    for wish in wishes:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, wish), family=family)
        except OSError as error:
            problem = error
    raise InputError(
        f"cannot listen on {host}:{wishes[0]}: {problem.strerror or problem}",
        hint="choose another --port or --host",
    )
