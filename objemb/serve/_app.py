"""The application: FastAPI's routes, which read requests and call the service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeAlias, TypeVar

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from objemb.serve import _bodies as bodies
from objemb.serve.guard import Guard
from objemb.serve.limits import MAX_FILTER, MAX_LISTED, MAX_TEXT, MAX_UPLOADS
from objemb.serve.page import FILES, read_files
from objemb.serve.problems import INTERNAL, PROBLEM_TYPE, Problem, problem_of
from objemb.serve.service import PHOTO, Service, Upload
from objemb.version import __version__

D = TypeVar("D", bound=bodies.Document)
#: Answers a document and the files of its form.
Answer: TypeAlias = Callable[[D, dict[str, Upload]], Awaitable[bytes]]

DESCRIPTION = """Finds the object, not the picture. A request with a photo is a form: the part `photo` is a file, the
part `query` the JSON document shown below. A request about an indexed photo may be the JSON document alone."""
PROBLEM: dict[str, Any] = {
    "description": "A problem by RFC 9457, which names what was expected and what was found.",
    "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}},
}
#: Statuses of problems.
STATUSES = (400, 401, 403, 404, 408, 409, 413, 415, 421, 422, 429, 503)
JPEG = {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
ImageId = Annotated[str, Path(description="Id of an image, percent-encoded as a whole.", examples=["shelf/1.jpg"])]


def guarded_app(service: Service, *, token: str | None, hosts: frozenset[str] | None) -> Guard:
    """The whole application, as a server runs it.

    Args:
        service: What answers; closed when the server stops.
        token: The token that requests need, None for none.
        hosts: Names of hosts that requests may ask for, None for all.
    """
    app = _app(service)
    guard = Guard(app, service.limits, token=token, hosts=hosts, pages=FILES, count=service.metrics.request)
    app.state.guard = guard
    return guard


def _app(service: Service) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="objemb",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,  # FastAPI's pages load scripts from other hosts
        redoc_url=None,
        lifespan=lifespan,
        responses=dict.fromkeys(STATUSES, PROBLEM),
        redirect_slashes=False,
    )
    app.add_exception_handler(RequestValidationError, _refused_parameter)
    app.add_exception_handler(HTTPException, _refused_route)
    app.add_exception_handler(Exception, _refused)
    _add_queries(app, service)
    _add_images(app, service)
    _add_states(app, service)
    _add_page(app)
    own_openapi = app.openapi

    def openapi() -> dict[str, Any]:
        described = own_openapi()
        schemas = described.setdefault("components", {}).setdefault("schemas", {})
        for document in (*DOCUMENTS, bodies.ProblemDetails):
            schema = document.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {})
            schemas[document.__name__] = schema
        for name in ("HTTPValidationError", "ValidationError"):  # problems have taken their place
            schemas.pop(name, None)
        return described

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's own documentation does it
    return app


DOCUMENTS = (bodies.SearchRequest, bodies.DetectRequest, bodies.DescribeRequest, bodies.ImageWrite)


def _form(document: type[bodies.Document], part: str, *, alone: bool) -> dict[str, Any]:
    """The body of a request in OpenAPI: a form with a document and a photo, or the document alone."""
    schema = {"$ref": f"#/components/schemas/{document.__name__}"}
    photo = {"type": "string", "format": "binary", "description": "A JPEG, PNG, WebP, BMP or TIFF file."}
    form = {
        "schema": {
            "type": "object",
            "properties": {PHOTO: photo, part: schema},
            "additionalProperties": {"type": "string", "format": "binary"},
            **({} if alone else {"required": [PHOTO]}),
        },
        "encoding": {part: {"contentType": "application/json"}},
    }
    content = {"multipart/form-data": form} | ({"application/json": {"schema": schema}} if alone else {})
    return {"requestBody": {"required": True, "content": content}}


def _answers(document: type[Any], code: int = 200) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": document}}


def _add_queries(app: FastAPI, service: Service) -> None:
    """The routes that take a query, which is a document with photos, and answer it with another document."""

    def add(name: str, summary: str, asks: type[D], gives: type[Any], answer: Answer[D]) -> None:
        @app.post(
            f"/v1/{name}",
            name=name,
            summary=summary,
            openapi_extra=_form(asks, "query", alone=True),
            responses=_answers(gives),
            response_class=Response,
        )
        async def query(request: Request) -> Response:
            return _json(await answer(*await _read(request, asks, "query")))

    add("search", "Find the photos that show an object", bodies.SearchRequest, bodies.SearchAnswer, service.search)
    add("detect", "Detect the objects of a photo", bodies.DetectRequest, bodies.DetectAnswer, service.detect)
    summary = "Describe the regions of a photo by vectors"
    add("describe", summary, bodies.DescribeRequest, bodies.DescribeAnswer, service.describe)


def _add_images(app: FastAPI, service: Service) -> None:
    @app.get(
        "/v1/images",
        summary="List the library",
        responses=_answers(bodies.ImageList),
        response_class=Response,
    )
    async def listed(
        start: Annotated[int, Query(ge=0, le=2**31)] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 50,
        where: Annotated[str | None, Query(max_length=MAX_FILTER, description="A filter.")] = None,
    ) -> Response:
        return _json(await service.listed(start, limit, where))

    @app.get(
        "/v1/images/{id:path}",
        summary="What is stored of an image",
        responses=_answers(bodies.StoredImage),
        response_class=Response,
    )
    async def stored(id: ImageId) -> Response:
        return _json(await service.stored(id))

    @app.put(
        "/v1/images/{id:path}",
        summary="Add or replace an image; durable when answered",
        openapi_extra=_form(bodies.ImageWrite, "image", alone=False),
        responses=_answers(bodies.StoredImage) | _answers(bodies.StoredImage, 201),
        response_class=Response,
    )
    async def put(id: ImageId, request: Request) -> Response:
        asked, uploads = await _read(request, bodies.ImageWrite, "image")
        was_there, answer = await service.put(id, asked, uploads)
        return _json(answer, 200 if was_there else 201)

    @app.delete(
        "/v1/images/{id:path}",
        summary="Delete an image; durable when answered",
        responses=_answers(bodies.Deleted),
        response_class=Response,
    )
    async def delete(id: ImageId) -> Response:
        return _json(await service.delete(id))

    @app.get(
        "/v1/photos/{id:path}",
        summary="A thumbnail of an indexed image",
        responses={200: JPEG, 304: {"description": "The client has it."}},
        response_class=Response,
    )
    async def thumbnail(
        id: ImageId, request: Request, side: Annotated[int, Query(ge=1, le=4096, description="Pixels.")] = 320
    ) -> Response:
        content, mark = await service.thumbnail(id, side, request.headers.get("if-none-match"))
        headers = {"ETag": f'"{mark}"', "Cache-Control": "private, no-cache"}
        if content is None:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type="image/jpeg", headers=headers)


def _add_states(app: FastAPI, service: Service) -> None:
    @app.get("/v1/info", summary="The index, its model, and the limits of requests")
    async def info() -> Response:
        return _json(await service.info())

    @app.get("/healthz", summary="Whether the service lives")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Whether the service answers requests")
    async def readyz() -> dict[str, str]:
        return service.readiness()

    @app.get("/metrics", summary="Figures for Prometheus", response_class=Response)
    async def metrics() -> Response:
        text = service.figures(app.state.guard.held_bytes)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    """The files of the page, read once: no path of a request leads to a file."""
    files = read_files()

    def add(path: str) -> None:
        @app.get(path, include_in_schema=False)
        async def file(request: Request) -> Response:
            page = files[path]
            headers = {"ETag": page.mark, "Cache-Control": "no-cache"}
            if request.headers.get("if-none-match") == page.mark:
                return Response(status_code=304, headers=headers)
            return Response(page.content, media_type=page.type, headers=headers)

    for path in files:
        add(path)


async def _read(request: Request, document: type[D], part: str) -> tuple[D, dict[str, Upload]]:
    """The document of a request, and its files by the names of their parts."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return bodies.parsed(document, await request.body()), {}
    if kind != "multipart/form-data":
        raise Problem(415, f"body: expected multipart/form-data or application/json, found {kind[:100] or 'no type'}")
    try:
        parser = _InMemory(request.headers, request.stream(), max_files=MAX_UPLOADS, max_fields=1)
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        text = getattr(error, "message", "") or "one that is malformed"
        raise Problem(400, f"body: expected a form, found {text}") from None
    uploads: dict[str, Upload] = {}
    text = "{}"
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name in uploads:
                raise Problem(422, "body: expected parts of different names, found two of one name")
            content = await value.read()
            uploads[name] = Upload((value.filename or name)[:MAX_TEXT], content)
        elif name == part:
            text = value
        else:
            raise Problem(422, f"body: expected files and the text {part!r}, found another text")
    return bodies.parsed(document, text), uploads


class _InMemory(MultiPartParser):
    """Keeps files in memory, where the body of the request is already: nothing is written to disk."""

    spool_max_size = 2**40


def _json(content: bytes, status: int = 200) -> Response:
    return Response(content, status, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    """The answer to an error of the service, which the guard gets as well and writes to the log."""
    del request
    return _problem(problem_of(error) or INTERNAL)


async def _refused_parameter(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, RequestValidationError)
    details = error.errors()[0]
    expected = str(details["msg"]).removeprefix("Input should be ")
    name = str(details["loc"][-1])
    return _problem(Problem(422, f"{name}: expected {expected}, found {str(details.get('input'))[:80]!r}"))


async def _refused_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    details = {404: "path: expected one of /openapi.json, found another one", 405: "method: expected another one"}
    del request
    headers = tuple((error.headers or {}).items())
    return _problem(Problem(error.status_code, details.get(error.status_code, str(error.detail)), headers=headers))


def _problem(problem: Problem) -> Response:
    return Response(problem.body(), problem.status, dict(problem.all_headers()))
