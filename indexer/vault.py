"""Templates and uploads that are of no use without a key: what is turned, what is encrypted, and how to undo it.

Embeddings of a protected gallery are multiplied by a secret orthogonal matrix before they are stored. Distances stay
what they are, so every search works on what is stored; but without the key nobody can compare it with a face, or with
another gallery. The matrix follows from the key and from a seal (a random salt, and a mark by which the right key is
known) that the database holds; a new seal makes all that leaked before worthless. Uploads are encrypted by AES-256-GCM.
Who knows the plain embeddings of as many faces as there are dimensions can compute the matrix: docs/data-protection.md.
N. Ratha, J. Connell, R. Bolle, Enhancing security and privacy in biometrics-based authentication systems (2001), on
cancelable templates; random projections: A. Teoh, A. Goh, D. Ngo (2006); HKDF: RFC 5869.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from indexer.errors import BadKey, KeyMissing
from indexer.settings import Settings
from recognition.types import Embeddings

KEY_BYTES = 32
SALT_BYTES = 32
MARK_BYTES = 16
NONCE_BYTES = 12
MAGIC = b"facesearch sealed 1\n"
KEPT = 16
"""Matrices held in memory; one of 4096 dimensions takes 128 MB."""

NO_KEY = (
    "it is protected by a key that is not here: put it into the file that FACESEARCH_TEMPLATE_KEY_FILE names "
    "(one key a line, the current one first)"
)


class Vault:
    """Of a process; may be used from several threads. `keys`: the current one first, then older ones."""

    def __init__(self, keys: tuple[bytes, ...] = ()) -> None:
        self._keys = keys
        self._lock = threading.Lock()
        self._matrices: OrderedDict[tuple[bytes, int], NDArray[np.float64]] = OrderedDict()

    @classmethod
    def open(cls, settings: Settings) -> Vault:
        """Raises BadKey."""
        told = settings.template_key.get_secret_value()
        if settings.template_key_file is not None:
            told = _read(settings.template_key_file) + "\n" + told
        return cls(tuple(_key(line) for line in told.split()))

    @property
    def on(self) -> bool:
        """Whether there is a key, so that new galleries are protected."""
        return bool(self._keys)

    def new_seal(self) -> bytes:
        """For a gallery, made with the current key. Raises KeyMissing."""
        if not self._keys:
            raise KeyMissing(
                "there is no key to protect a gallery with; FACESEARCH_TEMPLATE_KEY_FILE names its file"
            )
        salt = os.urandom(SALT_BYTES)
        return salt + _mark(self._keys[0], salt)

    def check(self, seal: bytes | None) -> None:
        """Raises KeyMissing if there is not the key that the seal was made with."""
        if seal is not None:
            self._key_of(seal)

    def hide(self, seal: bytes | None, rows: Embeddings) -> Embeddings:
        """(n, dimension) or (dimension,) float32 as they are stored. Raises KeyMissing."""
        if seal is None:
            return rows
        return np.asarray(rows @ self._matrix(seal, rows.shape[-1]), np.float32)

    def show(self, seal: bytes | None, rows: Embeddings) -> Embeddings:
        """What `hide` was given. Raises KeyMissing."""
        if seal is None:
            return rows
        return np.asarray(rows @ self._matrix(seal, rows.shape[-1]).T, np.float32)

    def close_file(self, data: bytes) -> bytes:
        """Encrypted with the current key, or as it is without one."""
        if not self._keys:
            return data
        salt, nonce = os.urandom(SALT_BYTES), os.urandom(NONCE_BYTES)
        head = MAGIC + salt + _mark(self._keys[0], salt)
        cipher = AESGCM(_derived(self._keys[0], salt, b"file", KEY_BYTES))
        return head + nonce + cipher.encrypt(nonce, data, head)

    def open_file(self, data: bytes) -> bytes:
        """What `close_file` was given. Raises KeyMissing; BadKey for what was changed since."""
        if not data.startswith(MAGIC):
            return data
        at = len(MAGIC) + SALT_BYTES + MARK_BYTES
        head, nonce, body = data[:at], data[at : at + NONCE_BYTES], data[at + NONCE_BYTES :]
        seal = head[len(MAGIC) :]
        cipher = AESGCM(_derived(self._key_of(seal), seal[:SALT_BYTES], b"file", KEY_BYTES))
        try:
            return cipher.decrypt(nonce, body, head)
        except InvalidTag as error:
            raise BadKey("a stored file was changed since it was encrypted") from error

    def _key_of(self, seal: bytes) -> bytes:
        salt, mark = seal[:SALT_BYTES], seal[SALT_BYTES:]
        for key in self._keys:
            if hmac.compare_digest(_mark(key, salt), mark):
                return key
        raise KeyMissing(NO_KEY)

    def _matrix(self, seal: bytes, dimension: int) -> NDArray[np.float64]:
        place = (seal, dimension)
        with self._lock:
            if place not in self._matrices:
                salt = seal[:SALT_BYTES]
                seed = _derived(self._key_of(seal), salt, b"rotation", KEY_BYTES)
                self._matrices[place] = rotation(seed, dimension)
                while len(self._matrices) > KEPT:
                    self._matrices.popitem(last=False)
            self._matrices.move_to_end(place)
            return self._matrices[place]


def rotation(seed: bytes, dimension: int) -> NDArray[np.float64]:
    """(dimension, dimension): an orthogonal matrix, each as likely as any other, that only the seed determines.

    The orthogonal part of a matrix of normal numbers (F. Mezzadri, How to generate random matrices from the classical
    compact groups, 2007); these by G. Box and M. Muller (1958) from SHAKE-256.
    """
    count = dimension * dimension
    stream = hashlib.shake_256(seed + dimension.to_bytes(4, "big")).digest(8 * count)
    words = np.frombuffer(stream, ">u4").reshape(2, count).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((words[0] + 1.0) / 2.0**32))
    normal = radius * np.cos(words[1] * (2.0 * np.pi / 2.0**32))
    q, r = np.linalg.qr(normal.reshape(dimension, dimension))
    return np.ascontiguousarray(q * np.where(np.diag(r) < 0, -1.0, 1.0))


def _mark(key: bytes, salt: bytes) -> bytes:
    return _derived(key, salt, b"mark", MARK_BYTES)


def _derived(key: bytes, salt: bytes, use: bytes, length: int) -> bytes:
    info = b"facesearch templates 1: " + use
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(key)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadKey(f"the key file {file} cannot be read: {error}") from error


def _key(told: str) -> bytes:
    """Raises BadKey."""
    try:
        key = base64.b64decode(told, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise BadKey(
            f"a template key is {KEY_BYTES} random bytes in base64, as `openssl rand -base64 {KEY_BYTES}` makes them"
        )
    return key
