"""The trunk of VGG-Face, on which DeepFace's age, gender and race were trained too.

O. Parkhi et al., Deep Face Recognition (2015): VGG-16 with its dense layers as convolutions.
"""

from __future__ import annotations

from typing import Any

SIDE = 224
FEATURES = 4096
GROUPS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Filters, and how many convolutions of 3 x 3 with them before the size is halved."""


def trunk() -> tuple[Any, Any]:
    """The input, (n, 224, 224, 3), and the features, (n, 1, 1, 4096)."""
    from recognition.keras import layers as k

    x = inputs = k.Input((SIDE, SIDE, 3))
    for filters, convolutions in GROUPS:
        for _ in range(convolutions):
            x = k.ZeroPadding2D(1)(x)
            x = k.Conv2D(filters, 3, activation="relu")(x)
        x = k.MaxPooling2D(2)(x)
    x = k.Conv2D(FEATURES, 7, activation="relu")(x)
    x = k.Dropout(0.5)(x)
    return inputs, k.Conv2D(FEATURES, 1, activation="relu")(x)


def classifier(classes: int) -> Any:  # noqa: ANN401 # Keras is untyped
    """A network that gives (n, classes) probabilities."""
    from recognition.keras import layers as k

    inputs, x = trunk()
    x = k.Conv2D(classes, 1)(k.Dropout(0.5)(x))
    return k.Model(inputs, k.Activation("softmax")(k.Flatten()(x)))
