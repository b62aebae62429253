"""What psp-serve says about itself: an OpenAPI description, and the same as a page that loads nothing else."""

from html import escape
from typing import Any

from psp_runtime import __version__
from psp_runtime.engines import contract
from psp_runtime.serving import translating
from psp_runtime.serving.models import Model

_STYLE = (
    "body { font: 16px/1.5 sans-serif; max-width: 60em; margin: 2em auto } "
    "td { padding-right: 1em; vertical-align: top } code, pre { background: #eee }"
)
_ERROR = {
    "description": "One line of what is wrong.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
EXAMPLE = "curl --data-binary @face.png 'http://127.0.0.1:8000/translate?mix=true&amp;seed=7' --output out.png"


def openapi(models: list[Model], engines: list[str]) -> dict[str, Any]:
    """Describe all paths, as OpenAPI 3.1."""
    error = {"type": "object", "properties": {"error": {"type": "string"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "psp-serve", "version": __version__},
        "paths": {"/translate": {"post": _translate(engines)}, **_protocol(models)},
        "components": {"schemas": {"Error": error}},
    }


def _translate(engines: list[str]) -> dict[str, Any]:
    which = {"type": "string", "enum": engines, "default": engines[0], "description": "Which engine."}
    listed = {"engine": which, **translating.parameters()}
    media = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in translating.MEDIA.values()}
    return {
        "summary": "Translate a picture file: the body is the file, the answer is one.",
        "parameters": [_parameter(name, dict(facts)) for name, facts in listed.items()],
        "requestBody": {"required": True, "content": media},
        "responses": {"200": {"description": "The picture.", "content": media}, "default": _ERROR},
    }


def _parameter(name: str, facts: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": facts.pop("description"), "schema": facts}


def _protocol(models: list[Model]) -> dict[str, Any]:
    """Describe the paths of the Open Inference Protocol v2, and /metrics."""
    done = {"200": {"description": "Done."}, "default": _ERROR}
    paths = {
        "/v2": "Name and version of the server.", "/v2/health/live": "Whether the process answers.",
        "/v2/health/ready": "Whether every engine makes a picture now.", "/metrics": "For Prometheus.",
    }  # fmt: skip
    for model in models:
        paths[f"/v2/models/{model.name}"] = f"Tensors of {model.name}."
        paths[f"/v2/models/{model.name}/config"] = "The same with the engine's metadata."
        paths[f"/v2/models/{model.name}/ready"] = "Whether it computes."
    described: dict[str, Any] = {path: {"get": {"summary": text, "responses": done}} for path, text in paths.items()}
    for model in models:
        binary = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
        described[f"/v2/models/{model.name}/infer"] = {
            "post": {"summary": _tensors(model), "requestBody": binary, "responses": done}
        }
    return described


def _tensors(model: Model) -> str:
    sides = (contract.inputs(model.info), contract.outputs(model.info))
    given, made = ("; ".join(f"{name} {tensor}" for name, tensor in side.items()) for side in sides)
    return f"Open Inference Protocol v2 with binary tensors. In: {given}. Out: {made}."


def page(description: dict[str, Any]) -> str:
    """Lay out the description as HTML."""
    rows = [
        f"<tr><td><code>{method.upper()} {escape(path)}</code><td>{escape(facts['summary'])}"
        for path, methods in description["paths"].items()
        for method, facts in methods.items()
    ]
    parameters = [
        f"<tr><td><code>{one['name']}</code><td>{escape(translating.expected(one['schema']))}<td>{escape(one['description'])}"
        for one in description["paths"]["/translate"]["post"]["parameters"]
    ]
    return (
        f"<!doctype html><meta charset=utf-8><title>psp-serve</title><style>{_STYLE}</style>"
        f"<h1>psp-serve {__version__}</h1><pre>{EXAMPLE}</pre><table>{''.join(rows)}</table>"
        f"<h2>Parameters of /translate</h2><table>{''.join(parameters)}</table>"
        '<p>The same for programs: <a href="openapi.json">openapi.json</a>'
    )
