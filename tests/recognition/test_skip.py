"""The detector that looks for nothing."""

from __future__ import annotations

import numpy as np

from recognition.detectors import skip
from recognition.spec import Resources
from recognition.types import Box


def test_every_image_is_one_face_without_confidence(resources: Resources):
    images = [np.zeros((7, 9, 3), np.uint8), np.zeros((1, 1, 3), np.uint8)]
    found = skip.SPECS[0].build(resources).detect(images)
    assert [[(f.box, f.score, f.landmarks) for f in faces] for faces in found] == [
        [(Box(0, 0, 9, 7), 0.0, None)],
        [(Box(0, 0, 1, 1), 0.0, None)],
    ]
