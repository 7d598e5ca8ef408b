"""Request bodies: JSON or a form, the same model from either, and both told to OpenAPI."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import orjson
from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import FormParser, MultiPartException, MultiPartParser
from starlette.requests import Request

from recognition.stages import timed
from service.access import permitted
from service.errors import MalformedBody, RequestTooLarge, UnsupportedBody
from service.problems import invalid
from service.schemas import FILE, IMAGE
from service.settings import ServiceSettings

Model = TypeVar("Model", bound=BaseModel)

JSON = "application/json"
MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"
SMALL_BYTES = 512 * 1024
"""Larger bodies are parsed in a thread."""
MAX_FIELDS = 100
IMAGES = frozenset({"img", "img1", "img2", "files"})


class _InMemoryParser(MultiPartParser):
    """Keeps uploads off the disk: photographs of people do not lie about in temporary files."""

    spool_max_size = 2**40


def body(model: type[Model]) -> Callable[[Request], Awaitable[Model]]:
    """A dependency that reads the request's body into `model`."""

    async def read(request: Request) -> Model:
        with timed(request.state.services.metrics.stage, "read"):
            found = await _read(request)
        permitted(request, found)
        return found

    async def _read(request: Request) -> Model:
        settings: ServiceSettings = request.state.services.settings
        limits = settings.max_request_bytes, settings.max_files
        kind, _ = parse_options_header(request.headers.get("content-type", ""))
        content_type = kind.decode("latin-1").lower()
        if content_type == JSON or content_type.endswith("+json"):
            raw = await request.body()
            return await _offloaded(len(raw), lambda: _from_json(model, raw))
        if content_type in (MULTIPART, URLENCODED):
            fields = await _form(request, content_type, limits)
            size = sum(len(value) for value in fields.values() if isinstance(value, str))
            return await _offloaded(size, lambda: _validated(model, fields))
        if not await request.body():
            return _validated(model, {})
        raise UnsupportedBody(
            f"the Content-Type {content_type or '(none)'} is not taken; send {JSON} or {MULTIPART}"
        )

    return read


def described(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """`openapi_extra` for a route that reads its body with `body(model)`."""
    schema = _inlined(model.model_json_schema(ref_template="{model}"))
    text = _with_images(schema, {"type": "string"})
    content = {
        JSON: {"schema": text},
        MULTIPART: {"schema": _with_images(schema, FILE)},
        URLENCODED: {"schema": text},
    }
    return {"requestBody": {"required": required, "content": content}}


async def _offloaded(size: int, work: Callable[[], Model]) -> Model:
    return await anyio.to_thread.run_sync(work) if size > SMALL_BYTES else work()


def _from_json(model: type[Model], raw: bytes) -> Model:
    try:
        fields = orjson.loads(raw or b"{}")
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"the body is not JSON: {error}") from error
    return _validated(model, fields)


def _validated(model: type[Model], fields: object) -> Model:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise invalid(list(error.errors()), "body") from error


async def _form(request: Request, content_type: str, limits: tuple[int, int]) -> dict[str, Any]:
    max_bytes, max_files = limits
    async with aclosing(_stream(request)) as stream:
        try:
            if content_type == MULTIPART:
                form = await _InMemoryParser(
                    request.headers, stream, max_files=max_files, max_fields=MAX_FIELDS,
                    max_part_size=max_bytes,
                ).parse()  # fmt: skip
            else:
                form = await FormParser(
                    request.headers, stream, max_fields=MAX_FIELDS, max_part_size=max_bytes
                ).parse()
        except MultiPartException as error:
            if error.message.startswith("Too many"):
                async for _ in stream:  # so that the client gets to reading the answer
                    pass
                raise RequestTooLarge(
                    f"at most {max_files} files and {MAX_FIELDS} fields are taken at once"
                ) from error
            raise MalformedBody(f"the form cannot be parsed: {error.message}") from error
        except FormParserError as error:
            raise MalformedBody(f"the form cannot be parsed: {error}") from error
    if content_type == URLENCODED:
        _refuse_json_in_disguise(form)
    return await _fields(form, content_type)


async def _stream(request: Request) -> AsyncGenerator[bytes, None]:
    async for chunk in request.stream():
        yield chunk


def _refuse_json_in_disguise(form: FormData) -> None:
    """What `curl -d '{...}'` sends without a Content-Type of its own."""
    if any(name.lstrip().startswith("{") for name in form):
        raise MalformedBody(f"the body looks like JSON; send it with 'Content-Type: {JSON}'")


async def _fields(form: FormData, content_type: str) -> dict[str, Any]:
    """By name: text, the bytes of a file, or a list where a name is repeated."""
    found: dict[str, list[str | bytes]] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            found.setdefault(name, []).append(await value.read())
            await value.close()
        elif content_type == URLENCODED and name in IMAGES:
            # A plus sign that the client did not escape; there are no blanks in base64.
            found.setdefault(name, []).append(value.replace(" ", "+"))
        else:
            found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _inlined(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without references, so that it can stand anywhere in the document."""
    definitions = schema.get("$defs", {})

    def resolve(value: Any) -> Any:  # noqa: ANN401 - any JSON
        if isinstance(value, dict):
            if "$ref" in value:
                rest = {k: v for k, v in value.items() if k != "$ref"}
                return resolve({**definitions[value["$ref"]], **rest})
            return {k: resolve(v) for k, v in value.items() if k != "$defs"}
        return [resolve(item) for item in value] if isinstance(value, list) else value

    resolved: dict[str, Any] = resolve(dict(schema))
    return resolved


def _with_images(value: Any, image: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any JSON
    """The schema with `image` where an image goes; one that may be left out need not take null."""
    if isinstance(value, list):
        return [_with_images(item, image) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("format") == IMAGE:
        return {**{k: v for k, v in value.items() if k != "format"}, **image}
    kinds = value.get("anyOf", ())
    if any(kind.get("format") == IMAGE for kind in kinds):
        return {**{k: v for k, v in value.items() if k not in ("anyOf", "default")}, **image}
    return {k: _with_images(v, image) for k, v in value.items()}
