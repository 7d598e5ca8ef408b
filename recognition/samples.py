"""The sample people: portraits that a package of the Python index carries, fetched as weights are."""

from __future__ import annotations

from dataclasses import dataclass

from recognition.weights import Weights


@dataclass(frozen=True, slots=True)
class Sample:
    """One photograph: whose it is, its file name, and where it comes from."""

    person: str
    file: str
    weights: Weights


def _portrait(person: str, file: str, sha256: str) -> Sample:
    return Sample(
        person,
        file,
        Weights(
            name=f"sample_{file}",
            sha256=sha256,
            licence="public domain (works of the United States government)",
            origin="test images of face_recognition 1.3.0 by Adam Geitgey",
            package="face-recognition==1.3.0",
            member=f"tests/test_images/{file}",
            sdist=True,
        ),
    )


SAMPLES: tuple[Sample, ...] = (
    _portrait(
        "Barack Obama",
        "obama.jpg",
        "0930e3aa8cae5920329c0c8cbc6a2ab70f47b0e67b432875beaa95cbf7e741f6",
    ),
    _portrait(
        "Barack Obama",
        "obama2.jpg",
        "a7efcc907375274796f39646510704aa86672d59f6d5469d69af3c85590976a6",
    ),
    _portrait(
        "Barack Obama",
        "obama3.jpg",
        "76ac6bf97c36dc2da0ad16a537d6a5ac1b10f48d49aac29a0cca9a17cdbc3ca3",
    ),
    _portrait(
        "Joe Biden", "biden.jpg", "3c17508bb91554c637a2eabddfae790e5bb1caba93130814fc2ac50be9760c4c"
    ),
)
