"""Requests that the OpenAPI document allows, and what becomes of them with real images, names and odd values put in.

Schemathesis generates the cases; each is sent as it is, and some more times with parts replaced. A status of 500 or
more is a find, but for a 503 that a problem document explains; so is a connection that breaks, an answer that takes
longer than a minute, and an error that is no problem document.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.core import NOT_SET

from fuzzing.material import NAMES, NUMBERS, Material

VARIANTS = 6
"""Times that a case is sent."""
CLIENTS = 8
TIMEOUT_S = 60.0
GALLERY, IDENTITY = "fuzzed", "Ada"
IMAGE_FIELDS = ("img", "img1", "img2", "files")
NAME_FIELDS = ("gallery", "identity", "name", "model_name", "detector_backend", "path")
RARE = {"/admin/reindex": 40, "/galleries/{gallery}": 4}
"""Of so many cases one is sent: jobs are processes, and an erased gallery leaves little to search."""
EXPLAINED = (
    "overloaded", "database-unavailable", "model-unavailable", "weights-missing", "bad-weights", "not-ready",
    "template-key-missing",
)  # fmt: skip
MULTIPART = "multipart/form-data"
FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Shot:
    """One request; `files` are parts with bytes."""

    operation: str
    method: str
    url: str
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    data: Mapping[str, Any] | None = None
    files: list[tuple[str, tuple[str, bytes]]] | None = None

    def told(self) -> dict[str, Any]:
        """To be written down, and sent again by hand."""
        content = None if self.content is None else base64.b64encode(self.content).decode()
        parts = [(name, base64.b64encode(part[1]).decode()) for name, part in self.files or ()]
        return {
            "method": self.method, "url": self.url, "params": repr(dict(self.params)),
            "headers": dict(self.headers), "content_base64": content, "data": repr(self.data),
            "files_base64": parts,
        }  # fmt: skip


@dataclass(slots=True)
class Tally:
    statuses: Counter[int] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    unlisted: Counter[str] = field(default_factory=Counter)
    """Statuses that the document does not list for the operation."""
    finds: list[dict[str, Any]] = field(default_factory=list)
    sent: int = 0
    unsendable: int = 0
    """Cases that the HTTP client refuses to send, such as a header with a line break."""


class Fuzzer:
    """`folder`: where finds are written."""

    def __init__(self, url: str, material: Material, number: int, folder: Path) -> None:
        self._url, self._material, self._folder = url, material, folder
        self._dice = random.Random(number)
        self._seed = number
        document = httpx.get(f"{url}/openapi.json", trust_env=False, timeout=TIMEOUT_S).json()
        self._paths: dict[str, Any] = document["paths"]
        self._schema = schemathesis.openapi.from_dict(document)
        self.tally = Tally()

    async def run(self, requests: int) -> Tally:
        """Send so many."""
        queue: asyncio.Queue[Shot | None] = asyncio.Queue(maxsize=200)
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(
            base_url=self._url, trust_env=False, timeout=TIMEOUT_S, limits=limits
        ) as client:
            senders = [asyncio.ensure_future(self._send(client, queue)) for _ in range(CLIENTS)]
            left, round_ = requests, 0
            while left > 0:
                cases = await asyncio.to_thread(self._cases, round_)
                round_ += 1
                for case in cases:
                    if left > 0 and not self._skipped(case):
                        for shot in self._shots(case)[:left]:
                            await queue.put(shot)
                            left -= 1
            for _ in senders:
                await queue.put(None)
            await asyncio.gather(*senders)
        return self.tally

    def _cases(self, round_: int) -> list[Any]:
        """Some of every operation, in no order."""
        found: list[Any] = []
        every: Any = self._schema.get_all_operations()
        for result in every:
            operation = result.ok()

            @seed(self._seed * 1000 + round_)
            @settings(
                max_examples=30, database=None, deadline=None, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=operation.as_strategy())
            def collect(case: Any) -> None:  # noqa: ANN401 - of schemathesis
                found.append(case)

            collect()
        self._dice.shuffle(found)
        return found

    def _skipped(self, case: Any) -> bool:  # noqa: ANN401
        rare = RARE.get(case.path, 1)
        if case.path == "/galleries/{gallery}" and case.method.upper() != "DELETE":
            rare = 1
        return self._dice.randrange(rare) != 0

    def _shots(self, case: Any) -> list[Shot]:  # noqa: ANN401
        """The case as it is and with parts replaced; now and then somebody to be found."""
        shots = [self._shot(case, replaced=n > 0) for n in range(VARIANTS)]
        if self._dice.randrange(30) == 0:
            shots += [
                self._enrolment(),
                Shot("PUT /galleries/{gallery}", "PUT", f"/galleries/{GALLERY}"),
            ]
        return shots

    def _enrolment(self) -> Shot:
        url = f"/galleries/{GALLERY}/identities/{IDENTITY}/images"
        data = self._dice.choice(self._material.photographs)
        operation = "POST /galleries/{gallery}/identities/{identity}/images"
        return Shot(operation, "POST", url, files=[("files", ("a.jpg", data))])

    def _shot(self, case: Any, *, replaced: bool) -> Shot:  # noqa: ANN401
        dice = self._dice
        path, params, headers = case.path, dict(case.query or {}), dict(case.headers or {})
        for name, value in (case.path_parameters or {}).items():
            told = self._name(name) if replaced and dice.random() < 0.8 else str(value)
            path = path.replace("{" + name + "}", quote(told, safe="") or "%20")
        if replaced:
            headers = {}
        body = None if case.body is NOT_SET else case.body
        operation = f"{case.method.upper()} {case.path}"
        shot = Shot(operation, case.method, path, params, headers)
        if not isinstance(body, dict):
            return replace(shot, content=None if body is None else json.dumps(body).encode())
        if replaced:
            body = self._replaced(case.path, body)
        return self._with_body(shot, body, case.media_type)

    def _replaced(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Images where images belong, odd values elsewhere."""
        dice, out = self._dice, dict(body)
        known = self._properties(path)
        for name in IMAGE_FIELDS:
            if name in known and (name in out or dice.random() < 0.8):
                out[name] = self._material.text(dice)
        if "files" in out:
            out["files"] = [self._material.text(dice) for _ in range(dice.randint(0, 4))]
        for name in NAME_FIELDS:
            if name in known and dice.random() < 0.5:
                out[name] = self._name(name)
        for name in list(out):
            if name not in IMAGE_FIELDS and dice.random() < 0.1:
                out[name] = dice.choice((None, [], {}, "", *NUMBERS, *NAMES))
        return out

    def _with_body(self, shot: Shot, body: Mapping[str, Any], media: str | None) -> Shot:
        if media == MULTIPART:
            files, data = [], {}
            for name, value in body.items():
                if name in IMAGE_FIELDS and self._dice.random() < 0.8:
                    for _ in range(self._dice.randint(1, 3 if name == "files" else 1)):
                        files.append((name, (f"{name}.jpg", self._material.image(self._dice))))
                else:
                    data[name] = _plain(value)
            return replace(shot, data=data, files=files or [("nothing", ("x", b""))])
        if media == FORM:
            return replace(shot, data={name: _plain(value) for name, value in body.items()})
        headers = {**shot.headers, "Content-Type": "application/json"}
        return replace(shot, headers=headers, content=json.dumps(body, default=repr).encode())

    def _name(self, name: str) -> str:
        """Real ones mostly."""
        share = self._dice.random()
        real = {"gallery": (GALLERY, "default"), "identity": (IDENTITY,), "name": (IDENTITY, "Bob"),
                "image_id": ("1", "2", "3", "17"), "model_name": ("Dlib", "dlib", "ArcFace"),
                "detector_backend": ("skip", "mediapipe", "opencv", "mtcnn", "retinaface")}  # fmt: skip
        if share < 0.7 and name in real:
            return self._dice.choice(real[name])
        return self._dice.choice(NAMES)

    def _properties(self, path: str) -> set[str]:
        """Fields that bodies of that path may have."""
        text = json.dumps(self._paths[path])
        return {name for name in (*IMAGE_FIELDS, *NAME_FIELDS) if f'"{name}"' in text}

    async def _send(self, client: httpx.AsyncClient, queue: asyncio.Queue[Shot | None]) -> None:
        while (shot := await queue.get()) is not None:
            try:
                request = client.build_request(
                    shot.method, shot.url, params=shot.params, headers=dict(shot.headers),
                    content=shot.content, data=shot.data, files=shot.files,
                )  # fmt: skip
            except (ValueError, TypeError, httpx.InvalidURL, UnicodeError):
                self.tally.unsendable += 1
                continue
            try:
                await self._judge(shot, await client.send(request, stream=True))
            except httpx.LocalProtocolError:
                self.tally.unsendable += 1
            except httpx.HTTPError as error:
                self._found(shot, 0, repr(error))

    async def _judge(self, shot: Shot, response: httpx.Response) -> None:
        tally = self.tally
        try:
            streams = response.headers.get("content-type", "").startswith("text/event-stream")
            body = b"" if streams else await response.aread()
        finally:
            await response.aclose()
        status = response.status_code
        tally.sent += 1
        tally.statuses[status] += 1
        tally.operations[shot.operation] += 1
        method, _, path = shot.operation.partition(" ")
        listed = self._paths.get(path, {}).get(method.lower(), {}).get("responses", {})
        if str(status) not in listed and status not in (404, 405):
            tally.unlisted[f"{shot.operation} {status}"] += 1
        if status >= 400 and not _is_problem(response, body):
            self._found(shot, status, "no problem document: " + body[:300].decode(errors="replace"))
        elif status >= 500 and not _explained(status, body):
            self._found(shot, status, body[:500].decode(errors="replace"))

    def _found(self, shot: Shot, status: int, told: str) -> None:
        find = {"status": status, "answer": told, **shot.told()}
        self.tally.finds.append(find)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"request-{len(self.tally.finds):04}.json"
        path.write_text(json.dumps(find, indent=1))


def _plain(value: object) -> Any:  # noqa: ANN401 - what a form can carry
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value
    return value if isinstance(value, str) else json.dumps(value, default=repr)


def _is_problem(response: httpx.Response, body: bytes) -> bool:
    if response.request.method == "HEAD":
        return True
    if not response.headers.get("content-type", "").startswith("application/problem+json"):
        return False
    try:
        return {"type", "title", "status"} <= set(json.loads(body))
    except ValueError:
        return False


def _explained(status: int, body: bytes) -> bool:
    slug = str(json.loads(body)["type"]).rpartition("/")[2]
    return status == httpx.codes.SERVICE_UNAVAILABLE and slug in EXPLAINED


def against(url: str, material: Material, requests: int, number: int, folder: Path) -> Tally:
    """Send so many requests to the server at that address."""
    fuzzer = Fuzzer(url, material, number, folder)
    started = time.perf_counter()
    tally = asyncio.run(fuzzer.run(requests))
    seconds = time.perf_counter() - started
    print(f"{tally.sent} requests in {seconds:.0f} s, {tally.unsendable} could not be sent")
    return tally
