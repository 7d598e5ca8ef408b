"""Requests as bytes, for clients that send them their own way."""

from __future__ import annotations

import secrets
import socket
import struct
from collections.abc import Sequence
from urllib.parse import quote

from tests.faults.ledger import Person
from tests.faults.service import Service


def upload(person: Person, files: Sequence[bytes], *, chunked: bool = False) -> tuple[bytes, bytes]:
    """Head and body of the enrolment."""
    boundary = secrets.token_hex(12)
    body = b""
    for number, data in enumerate(files):
        body += (
            f"--{boundary}\r\nContent-Disposition: form-data; name=files; filename={number}.jpg"
            "\r\nContent-Type: image/jpeg\r\n\r\n"
        ).encode()
        body += data + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    kind = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    path = f"/galleries/{quote(person.gallery)}/identities/{quote(person.name)}/images"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{kind}\r\n"
        f"Content-Type: multipart/form-data; boundary={boundary}\r\n\r\n"
    )
    if chunked:
        body = b"".join(_chunk(body[at : at + 4096]) for at in range(0, len(body), 4096))
        body += b"0\r\n\r\n"
    return head.encode(), body


def connection(service: Service, timeout: float = 20) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout)


def reset(opened: socket.socket) -> None:
    """Close it so that the other side sees an error and not an end."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    opened.close()


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"
