"""What psp-serve answers: POST /translate, the Open Inference Protocol v2, health, /metrics and a page about them."""

import asyncio
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from psp_runtime import __version__
from psp_runtime.engines.contract import Arrays
from psp_runtime.errors import EngineError, PspError
from psp_runtime.prefetch import cores
from psp_runtime.serving import pages, tensors, translating
from psp_runtime.serving.bodies import Answer, Bodies, Refused
from psp_runtime.serving.models import Engine, Model, all_work

#: Threads that decode and encode pictures: each may take some hundred MB while it does.
MOST_THREADS = 4
#: Statuses after which the rest of a request is not read, and the connection is closed.
CLOSED_AFTER = (408, 413, 415, 503)

Done = TypeVar("Done")
Handler = Callable[[Request], Awaitable[Response]]


class Metrics:
    """Counters for Prometheus."""

    def __init__(self, bodies: Bodies, engines: list[Engine]) -> None:
        self.registry = CollectorRegistry()
        labels = ["route", "status"]
        self.requests = Counter("psp_requests", "Requests answered.", labels, registry=self.registry)
        self.seconds = Histogram("psp_request_seconds", "From head to answer.", ["route"], registry=self.registry)
        self.batches = Histogram(
            "psp_batch_pictures", "Pictures (or styles) of a batch.", ["model"],
            buckets=[2**n for n in range(8)], registry=self.registry,
        )  # fmt: skip
        self.engine = Histogram("psp_batch_seconds", "Of the engine, each batch.", ["model"], registry=self.registry)
        Gauge("psp_waiting_requests", "Complete, not answered.", registry=self.registry).set_function(
            lambda: bodies.placed
        )
        Gauge("psp_held_bytes", "Of bodies.", registry=self.registry).set_function(lambda: bodies.held)
        for model in (model for engine in engines for model in engine.models):
            model.batcher.seen = self._seen(model.name)

    def _seen(self, model: str) -> Callable[[int, float], None]:
        def seen(pictures: int, seconds: float) -> None:
            self.batches.labels(model).observe(pictures)
            self.engine.labels(model).observe(seconds)

        return seen


class Service:
    """The routes over some engines."""

    def __init__(self, engines: list[Engine], bodies: Bodies) -> None:
        self.engines, self.bodies = engines, bodies
        self.named = {engine.full.name: engine for engine in engines}
        self.models = {model.name: model for engine in engines for model in engine.models}
        self.metrics = Metrics(bodies, engines)
        self.pool = ThreadPoolExecutor(min(MOST_THREADS, cores()), "pictures")
        self.description = pages.openapi(list(self.models.values()), list(self.named))

    def app(self, watch: Callable[["Service"], Awaitable[None]]) -> Starlette:
        """Make the ASGI application; `watch` runs beside it."""
        handlers: dict[Any, Any] = {HTTPException: _http_error}
        return Starlette(routes=self._routes(), lifespan=self._lifespan(watch), exception_handlers=handlers)

    def _routes(self) -> list[Route]:
        posts = {"/translate": self.translate, "/v2/models/{model}/infer": self.infer}
        gets = {
            "/": self.page, "/openapi.json": self.openapi, "/metrics": self.prometheus,
            "/v2": self.server, "/v2/health/live": self.live, "/v2/health/ready": self.ready,
            "/v2/models/{model}": self.metadata, "/v2/models/{model}/config": self.configuration,
            "/v2/models/{model}/ready": self.model_ready,
        }  # fmt: skip
        every = [*((path, one, "POST") for path, one in posts.items()), *((p, one, "GET") for p, one in gets.items())]
        version = f"/versions/{tensors.VERSION}"
        every += [(p.replace("{model}", f"{{model}}{version}"), one, m) for p, one, m in every if "{model}" in p]
        return [Route(path, self._guarded(path, one), methods=[method]) for path, one, method in every]

    def _lifespan(self, watch: Callable[["Service"], Awaitable[None]]) -> Any:
        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            loops = [asyncio.ensure_future(model.batcher.loop()) for model in self.models.values()]
            loops.append(asyncio.ensure_future(watch(self)))
            yield
            for loop in loops:
                loop.cancel()

        return lifespan

    def _guarded(self, route: str, work: Handler) -> Handler:
        """Make the same handler; what it raises becomes an answer in JSON, and everything is counted."""

        async def handle(request: Request) -> Response:
            started = time.perf_counter()
            response = await _answered(work, request)
            self.metrics.requests.labels(route, response.status_code).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - started)
            return response

        return handle

    async def translate(self, request: Request) -> Response:
        """Answer POST /translate."""
        query = request.query_params.multi_items()
        name = dict(query).get("engine", self.engines[0].full.name)
        if name not in self.named:
            raise Refused(404, f"engine {name[:40]}: expected {', '.join(self.named)}")
        engine = self.named[name]
        async with self.bodies.whole(request) as data:
            try:
                asked = translating.read_query([one for one in query if one[0] != "engine"], engine.pipeline)
                inputs = await self._in_thread(translating.prepare, asked, engine.pipeline, data)
            except Refused:
                raise
            except PspError as error:
                raise Refused(400, translating.worded(error, engine.pipeline)) from None
            output = (await _run(engine.full, inputs, request))["output"][0]
            body, media = await self._in_thread(translating.encode, asked, output)
        return Answer(self.bodies, body, media)

    async def infer(self, request: Request) -> Response:
        """Answer POST /v2/models/MODEL/infer."""
        model = self._model(request)
        async with self.bodies.whole(request) as data:
            asked = tensors.parse(model.info, request.headers.get(tensors.HEAD_LENGTH), data)
            outputs = await _run(model, asked.inputs, request)
        body, head = tensors.answer(model.name, asked, outputs)
        return Answer(self.bodies, body, "application/octet-stream", {tensors.HEAD_LENGTH: str(head)})

    async def live(self, _: Request) -> Response:
        """Answer GET /v2/health/live: the process answers."""
        return Response()

    async def ready(self, _: Request) -> Response:
        """Answer GET /v2/health/ready: every engine makes a picture."""
        return Response(status_code=200 if await all_work(self.engines) else 503)

    async def model_ready(self, request: Request) -> Response:
        """Answer GET /v2/models/MODEL/ready."""
        return Response(status_code=200 if await self._model(request).works() else 503)

    async def server(self, _: Request) -> Response:
        """Answer GET /v2."""
        return JSONResponse({"name": "psp-serve", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def metadata(self, request: Request) -> Response:
        """Answer GET /v2/models/MODEL."""
        model = self._model(request)
        return JSONResponse(tensors.metadata(model.name, model.info))

    async def configuration(self, request: Request) -> Response:
        """Answer GET /v2/models/MODEL/config."""
        model = self._model(request)
        return JSONResponse(tensors.configuration(model.name, model.info, model.device, model.precision))

    async def prometheus(self, _: Request) -> Response:
        """Answer GET /metrics."""
        return Response(generate_latest(self.metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})

    async def openapi(self, _: Request) -> Response:
        """Answer GET /openapi.json."""
        return JSONResponse(self.description)

    async def page(self, _: Request) -> Response:
        """Answer GET /: the same for people."""
        return HTMLResponse(pages.page(self.description))

    def _model(self, request: Request) -> Model:
        name = request.path_params["model"]
        if name not in self.models:
            raise Refused(404, f"model {name[:40]}: expected {', '.join(self.models)}")
        return self.models[name]

    async def _in_thread(self, work: Callable[..., Done], *given: Any) -> Done:
        return await asyncio.get_running_loop().run_in_executor(self.pool, work, *given)


async def _run(model: Model, inputs: Arrays, request: Request) -> Arrays:
    """Compute outputs of a model; not for a caller who has left. Raises `ClientDisconnect`."""
    running: asyncio.Future[Any] = asyncio.ensure_future(model.batcher.run(inputs))
    leaving: asyncio.Future[Any] = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({running, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise ClientDisconnect
        outputs: Arrays = running.result()
        return outputs
    finally:
        running.cancel()
        leaving.cancel()


async def _answered(work: Handler, request: Request) -> Response:
    try:
        return await work(request)
    except Refused as refused:
        return _error(refused.status, str(refused))
    except EngineError as error:
        return _error(500, str(error))
    except PspError as error:
        return _error(400, str(error))
    except ClientDisconnect:
        return _error(499, "the caller has left")
    except Exception:  # a bug of ours: told here, not to the caller
        traceback.print_exc()
        return _error(500, "psp-serve has failed at this request: its log says why")


def _error(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status, {"connection": "close"} if status in CLOSED_AFTER else None)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail)
