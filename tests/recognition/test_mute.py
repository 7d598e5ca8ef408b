"""Nothing is reported to anybody: ONNX Runtime's wheels would, unless they are told not to before they are loaded."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROBE = """
import os, sys
import recognition.runtime
print(os.environ["ORT_DISABLE_TELEMETRY"], "onnxruntime" in sys.modules)
"""


def test_onnx_runtime_is_told_before_it_is_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env={}, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "True"]
    assert "telemetry" not in done.stderr


def test_nothing_else_loads_it() -> None:
    loads = re.compile(r"^\s*(import|from) onnxruntime\b", re.MULTILINE)
    found = [
        str(path.relative_to(ROOT))
        for package in ("recognition", "indexer", "service")
        for path in (ROOT / package).rglob("*.py")
        if loads.search(path.read_text())
    ]
    assert found == ["recognition/runtime.py"]
    source = (ROOT / found[0]).read_text()
    assert source.index("ORT_DISABLE_TELEMETRY") < source.index("import onnxruntime")
