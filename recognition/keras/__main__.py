"""`python -m recognition.keras MODULE:FUNCTION WEIGHTS.h5 GRAPH.onnx`: convert once, then be gone with TensorFlow.

Exit code 3: Keras is not installed; 4: the weights are not what they should be. The reason is on standard error.
"""

from __future__ import annotations

import sys
from pathlib import Path

from recognition.errors import BadWeights

NO_KERAS, BAD_WEIGHTS = 3, 4


def main(arguments: list[str]) -> int:
    network, source, target = arguments
    try:
        from recognition.keras.convert import convert

        convert(network, Path(source), Path(target))
    except ModuleNotFoundError as error:
        print(error, file=sys.stderr)
        return NO_KERAS
    except BadWeights as error:
        print(error, file=sys.stderr)
        return BAD_WEIGHTS
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
