"""The OpenAPI document and the page that shows it."""

from __future__ import annotations

import copy
from importlib.resources import files
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from app.api.examples import PATH
from app.api.field_errors import FILE_FIELDS, in_order
from app.api.glossary import describe_fields, describe_parameter
from app.api.middleware import ACCEPTED_ID
from app.api.problems import Problem
from app.api.request_parsing import JSON, MULTIPART
from app.api.schemas import FORMS, REQUESTS

SCHEMA_REFERENCE = "#/components/schemas/{model}"
DESCRIPTION = """\
Send photographs as files in a form (`multipart/form-data`), or as base64 text in JSON with the same fields. A field
that is left out, or empty in a form, takes its default. Errors are `application/problem+json` with a stable `code`.

A service that has keys wants one with every request: **Authorize** takes it here, `Authorization: Bearer tessera_...`
elsewhere."""
TAGS = [
    {"name": "recognition", "description": "Photographs in, decisions out: enrol, verify, identify, find faces."},
    {"name": "subjects", "description": "What is stored about a person: read, change, merge, erase."},
    {"name": "collections", "description": "Isolated sets of subjects with targets of their own, and their audits."},
    {"name": "health", "description": "For operators: whether every part works, what runs, metrics."},
]
REQUEST_ID = {
    "name": "X-Request-Id",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": f"^{ACCEPTED_ID.pattern}$"},
    "description": "names the request in its answer, in the log and in the audit trail; generated if left out",
}
"""The middleware reads it from any request. Clients pass it where a request is costly enough to be traced."""
ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}


PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tessera</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>
// Swagger UI takes a form that was shown for one that was edited, and would keep it as the text of a JSON body.
const edited = (original, system) => (state, ...operation) => {
  const value = system.oas3Selectors.requestBodyValue(...operation);
  return typeof value === "string" ? original(state, ...operation) : false;
};
SwaggerUIBundle({
  url: "docs/openapi.json",
  dom_id: "#swagger-ui",
  presets: [SwaggerUIBundle.presets.apis],
  plugins: [() => ({ statePlugins: { oas3: { wrapSelectors: { hasUserEditedBody: edited } } } })],
  deepLinking: true,
  tryItOutEnabled: true,
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
});
</script>
</body>
</html>
"""


class RequestSchema(GenerateJsonSchema):
    """A field of a request is absent or has its type; null is no value that a client need send."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """The schema of the value."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """A default of None says only that the field may be absent."""
        described = super().default_schema(schema)
        return {name: value for name, value in described.items() if (name, value) != ("default", None)}


def openapi_body(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of a body sent as a form or as JSON; ``request_definitions`` holds its schemas."""
    content = {
        MULTIPART: {"schema": {"$ref": SCHEMA_REFERENCE.format(model=form_name(model))}},
        JSON: {"schema": {"$ref": SCHEMA_REFERENCE.format(model=model.__name__)}},
    }
    return {"requestBody": {"required": True, "content": content}}


def openapi_json_body(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of a body sent as JSON."""
    reference = {"$ref": SCHEMA_REFERENCE.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {JSON: {"schema": reference}}}}


def form_name(model: type[BaseModel]) -> str:
    """The name of a request's schema as a form: ``VerifyForm`` for ``VerifyRequest``."""
    return model.__name__.removesuffix("Request") + "Form"


def request_definitions() -> dict[str, Any]:
    """The schemas of all request bodies, by name."""
    models: list[tuple[type[BaseModel], Literal["validation"]]] = [(model, "validation") for model in REQUESTS]
    definitions: dict[str, Any] = models_json_schema(
        models, ref_template=SCHEMA_REFERENCE, schema_generator=RequestSchema
    )[1]["$defs"]
    for model in REQUESTS:
        schema = definitions[model.__name__]
        schema["properties"] = {name: schema["properties"][name] for name in in_order(schema["properties"])}
    return definitions | {form_name(model): _form(definitions[model.__name__]) for model in FORMS}


def _form(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "title": schema["title"].removesuffix("Request") + "Form",
        "description": schema["description"],
        "properties": {name: _form_field(name, field) for name, field in schema["properties"].items()},
        "required": schema["required"],
        "additionalProperties": False,
    }


def _form_field(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    if name == "metadata":
        return {"type": "string", "description": schema["description"]}
    if name not in FILE_FIELDS:
        return schema
    file = {"type": "string", "format": "binary"}
    if "oneOf" in schema:
        return {"type": "array", "minItems": 1, "items": file, "description": schema["description"]}
    return file | {"description": schema["description"]}


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the application."""
    described = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=DESCRIPTION,
        tags=TAGS,
        # Relative to where the document is: the same behind any proxy.
        servers=[{"url": app.root_path or "/"}],
        routes=app.routes,
    )
    for operations in described["paths"].values():
        for operation in operations.values():
            if MULTIPART in operation.get("requestBody", {}).get("content", {}):
                operation.setdefault("parameters", []).append(REQUEST_ID)
            for parameter in operation.get("parameters", []):
                parameter["schema"] = _without_null(parameter["schema"])
                describe_parameter(parameter)
                if parameter["in"] == "path":
                    parameter["example"] = PATH[parameter["name"]]
    described["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "tessera_..., from `tessera keys create`"}
    }
    described["security"] = [{"key": []}]
    described["components"]["schemas"] |= {"Problem": Problem.model_json_schema()} | request_definitions()
    for name, schema in described["components"]["schemas"].items():
        describe_fields(name, schema)
    return described


def document_for_page(described: dict[str, Any]) -> dict[str, Any]:
    """The document for Swagger UI, which fills in forms from samples of its own making: extremes and random text.

    An empty example leaves a field empty, and an empty field is absent. Elsewhere it would be no valid example.
    """
    page = copy.deepcopy(described)
    schemas = page["components"]["schemas"]
    for model in FORMS:
        form = schemas[form_name(model)]
        for name, field in form["properties"].items():
            if name not in FILE_FIELDS and "default" not in field:
                field["example"] = ""
                if name not in form["required"] and "$ref" in field:
                    # A reference hides what stands beside it.
                    form["properties"][name] = schemas[field.pop("$ref").rpartition("/")[2]] | field
    return page


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    merged: dict[str, Any] = kinds[0] | {name: value for name, value in schema.items() if name != "anyOf"}
    return merged


def install_document(app: FastAPI) -> None:
    """Serves the document at ``/openapi.json`` and a page to try it out at ``/docs``."""

    def openapi() -> dict[str, Any]:
        if (described := app.openapi_schema) is None:
            described = app.openapi_schema = document(app)
        return dict(described)

    app.openapi = openapi  # type: ignore[method-assign]
    package = files("fastapi_swagger.resources")

    @app.get("/docs/openapi.json", include_in_schema=False)
    async def openapi_for_page() -> JSONResponse:
        return JSONResponse(document_for_page(openapi()))

    # Everything is asked for relative to the page, so that it works under any prefix and scheme.
    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(PAGE)

    def asset(name: str, media_type: str) -> None:
        @app.get(f"/docs/{name}", include_in_schema=False)
        def read() -> Response:
            return Response((package / name).read_bytes(), media_type=media_type)

    for name, media_type in ASSETS.items():
        asset(name, media_type)
