"""Environments of their own for reference implementations, and the photographs that both sides are shown."""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np

from indexer.settings import Settings
from recognition.images import ImageLimits, decode
from recognition.samples import SAMPLES
from recognition.types import Rgb
from recognition.weights import WeightsCache
from service.settings import ServiceSettings, environment


@dataclass(frozen=True, slots=True)
class Peer:
    """A reference implementation: what is installed, and the script that runs it."""

    name: str
    packages: tuple[str, ...]
    script: Path
    alone: tuple[str, ...] = ()
    """Installed without what they depend on."""
    settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Of its environment, beside the machine's."""

    def run(self, scratch: Path, *arguments: str) -> None:
        """`script` with the arguments, in an environment that is made once below `scratch`."""
        home = scratch / self.name
        python = home / "bin" / "python"
        done = home / ".installed"
        wanted = " ".join(self.packages + self.alone)
        if not done.exists() or done.read_text() != wanted:
            venv.create(home, clear=True, with_pip=True)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *self.packages], check=True, stdout=sys.stderr)
            if self.alone:
                subprocess.run([*pip, "--no-deps", *self.alone], check=True, stdout=sys.stderr)
            done.write_text(wanted)
        # -P: the script's folder holds our own modules, some of which are called as its are.
        command = [str(python), "-P", str(self.script), *arguments]
        settings = {**environment(ServiceSettings()), **self.settings}
        subprocess.run(command, check=True, cwd=scratch, stdout=sys.stderr, env=settings)


def arguments(summary: str) -> argparse.Namespace:
    """`scratch`, a folder that exists, and `photographs`, files."""
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--scratch", type=Path, default=Settings().home / "proof")
    parser.add_argument("photographs", nargs="*", type=Path, help="default: the sample people")
    known = parser.parse_args()
    known.scratch = known.scratch.resolve()
    known.scratch.mkdir(parents=True, exist_ok=True)
    return known


def photographs(files: Sequence[Path], folder: Path) -> dict[str, Rgb]:
    """The files, or the sample people, decoded by us; written to `folder` as PNG files for the peer."""
    if not files:
        files = WeightsCache(Settings().weights_folder).ensure([s.weights for s in SAMPLES])
    found = {path.stem: decode(path.read_bytes(), ImageLimits()) for path in files}
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    for name, image in found.items():
        cv2.imwrite(str(folder / f"{name}.png"), np.ascontiguousarray(image[:, :, ::-1]))
    return found


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Printed in columns."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
