"""An environment with DeepFace and all that its networks run on, made once."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from service.settings import ServiceSettings, environment

DEEPFACE = "0.0.103"
PACKAGES = (
    f"deepface=={DEEPFACE}",
    "werkzeug",  # it imports that without asking for it
    "tensorflow",
    "tf-keras",
    "torch",
    "torchvision",
    "pillow",
    "onnx",
    "onnxscript",
    "dlib-bin",
    "mtcnn",
    "opencv-contrib-python-headless<5",  # 5 has no Haar cascades
)

ALONE = ("facenet-pytorch==2.6.0",)
"""Without what it asks for: older releases of what is there."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def install(scratch: Path) -> None:
    done = scratch / ".installed"
    if not done.exists():
        say(
            f"installing DeepFace {DEEPFACE}, TensorFlow and PyTorch into an environment of their own"
        )
        venv.create(scratch / "env", clear=True, with_pip=True)
        pip = [str(python(scratch)), "-m", "pip", "install", "--quiet"]
        subprocess.run(
            [*pip, "--disable-pip-version-check", *PACKAGES], check=True, stdout=sys.stderr
        )
        subprocess.run([*pip, "--no-deps", *ALONE], check=True, stdout=sys.stderr)
        done.touch()
    weights(scratch).mkdir(parents=True, exist_ok=True)


def run(scratch: Path, script: str, arguments: Sequence[str], backend: str) -> None:
    """A peer script, with DeepFace's home in the scratch folder."""
    settings = {
        "DEEPFACE_HOME": str(scratch),
        "DEEPFACE_LOG_LEVEL": "40",
        "DEEPFACE_BACKEND_ENGINE": backend,
        "TF_USE_LEGACY_KERAS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    subprocess.run(
        [str(python(scratch)), script, *arguments],
        env=environment(ServiceSettings()) | settings,
        stdout=sys.stderr,
        check=True,
    )


def python(scratch: Path) -> Path:
    return scratch / "env" / "bin" / "python"


def weights(scratch: Path) -> Path:
    """Where DeepFace looks for weights."""
    return scratch / ".deepface" / "weights"
