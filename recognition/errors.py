"""What can go wrong between pixels and faces. Facts only: the HTTP edge decides on status codes."""

from __future__ import annotations


class RecognitionError(Exception):
    """Base of everything this package raises on purpose."""


class UndecodableImage(RecognitionError):
    """The bytes are empty, damaged, or not in one of the accepted image formats."""


class ImageTooLarge(RecognitionError):
    """The image has more bytes or pixels than allowed; found out before it is decoded."""


class NoFace(RecognitionError):
    """No face was found where one is needed."""


class SpoofDetected(RecognitionError):
    """A face looks like a picture of a face, where a live one was asked for."""


class CannotJudge(RecognitionError):
    """Whether a face is live cannot be told, as no detector says where it is."""


class UnknownName(RecognitionError):
    """There is no model, detector, attribute or metric of that name."""

    def __init__(self, kind: str, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(known)}")
        self.kind, self.name, self.known = kind, name, known


class WeightsMissing(RecognitionError):
    """A weights file is neither in the cache nor to be had; the message says what to put where."""


class ModelUnavailable(RecognitionError):
    """A model that the settings, the database or a user's file names cannot be used; the message names the file."""


class NoThreshold(RecognitionError):
    """Nobody has chosen a threshold for that metric; the caller has to bring one."""


class LicenceRefused(RecognitionError):
    """The licence of the weights forbids commercial use, and the settings refuse such weights."""

    def __init__(self, name: str, licence: str) -> None:
        super().__init__(
            f"{name} is licensed as {licence!r}, which forbids commercial use; "
            "FACESEARCH_ALLOW_NON_COMMERCIAL=false refuses it"
        )


class BadWeights(RecognitionError):
    """A weights file is not what its spec says: wrong hash, or unreadable."""
