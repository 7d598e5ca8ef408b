"""Everything of ours that reads bytes from outside, with what each may answer to bad ones."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from onnx import TensorProto, helper

from fuzzing.material import photographs
from indexer.transfer import archive, compreface, deepface, npy, npz, plain_pickle
from indexer.transfer.errors import BadSource
from recognition.errors import BadWeights, ImageTooLarge, UndecodableImage
from recognition.formats import (
    dlib_dat,
    dlib_points,
    keras_h5,
    mini_xception,
    mtcnn_lz4,
    onnx_shapes,
    tflite_onnx,
    torch_zip,
)
from recognition.images import ImageLimits, decode
from recognition.registry import BUILT_IN
from recognition.weights import WeightsCache
from tests.torch_files import saved

LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=1 << 20)
HEAD = 1 << 16
"""Bytes of a large weights file that are enough to begin with."""
DUMP = b"""COPY public.subject (id, api_key, subject_name) FROM stdin;
a\tk\tAda
\\.
COPY public.embedding (id, subject_id, embedding, calculator, img_id) FROM stdin;
e\ta\t{0.1,0.2}\tfacenet.Facenet2018\ti
\\.
"""
STORE: list[dict[str, object]] = [
    {"identity": "p/a.jpg", "hash": "0", "embedding": [0.1, 0.2], "target_x": 1, "target_y": 1,
     "target_w": 9, "target_h": 9}
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reader:
    """`read` takes any bytes and raises nothing but `refusals`; `seeds` are valid ones to begin with."""

    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seeds: Callable[[WeightsCache], list[bytes]]


@contextmanager
def _file(data: bytes, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="facesearch-fuzz-") as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        yield path


def _npz(data: bytes) -> None:
    with _file(data, "a.npz") as path:
        npz.source(path, npz.load(path), "somebody")


def _compreface(data: bytes) -> None:
    with _file(data, "dump.sql") as path:
        compreface.source(path, compreface.Choice(None, None))


def _pickle(data: bytes) -> None:
    with _file(
        data, "ds_model_dlib_detector_opencv_aligned_normalization_base_expand_0.pkl"
    ) as path:
        deepface.from_pickle(path, None, BUILT_IN, None)


def _archive(data: bytes) -> None:
    with _file(data, "a.zip") as path:
        if archive.is_archive(path):
            with archive.opened(path):
                pass


def _weights(cache: WeightsCache, name: str, size: int | None = None) -> list[bytes]:
    path = cache.folder / name
    return [path.read_bytes()[:size]] if path.exists() else [b""]


def _arrays(**arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type] # names are free
    return out.getvalue()


def _one_array(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


def _hdf5(_: WeightsCache) -> list[bytes]:
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = np.array([b"dense"])
        layer = group.create_group("dense")
        layer.attrs["weight_names"] = np.array([b"kernel:0"])
        layer["kernel:0"] = np.ones((2, 3), np.float32)
    return [out.getvalue()]


def _onnx(_: WeightsCache) -> list[bytes]:
    nodes = [helper.make_node("Relu", ["a"], ["b"])]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 8, 8]) for n in "ab"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    return [helper.make_model(graph).SerializeToString()]


def _torch(_: WeightsCache) -> list[bytes]:
    return [saved({"a": np.ones((2, 3), np.float32), "b": np.arange(4, dtype=np.float32)})]


def _stores(_: WeightsCache) -> list[bytes]:
    """Pickles of plain values, written by hand: protocol 2."""

    def value(item: object) -> bytes:
        if isinstance(item, list):
            return b"](" + b"".join(map(value, item)) + b"e"
        if isinstance(item, dict):
            return b"}(" + b"".join(value(k) + value(v) for k, v in item.items()) + b"u"
        if isinstance(item, float):
            return b"G" + np.array(item, ">f8").tobytes()
        if isinstance(item, int):
            return b"K" + bytes([item])
        text = str(item).encode()
        return b"X" + len(text).to_bytes(4, "little") + text

    return [b"\x80\x02" + value(STORE) + b"."]


def _npz_seeds(_: WeightsCache) -> list[bytes]:
    rows = np.ones((2, 4), np.float32)
    return [_arrays(names=np.array(["Ada", "Bob"]), embeddings=rows)]


def _archives(_: WeightsCache) -> list[bytes]:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(
            "manifest.json", b'{"format": "facesearch gallery", "format_version": 1, "files": {}}'
        )
    return [out.getvalue()]


WEIGHTS = (BadWeights,)
SOURCE = (BadSource,)
READERS: Mapping[str, Reader] = {
    "image": Reader(
        lambda data: decode(data, LIMITS),
        (UndecodableImage, ImageTooLarge),
        lambda cache: list(photographs(cache)),
    ),
    "dlib": Reader(
        dlib_dat.read, WEIGHTS,
        lambda cache: _weights(cache, "dlib_face_recognition_resnet_model_v1.dat", HEAD),
    ),
    "dlib points": Reader(
        dlib_points.read, WEIGHTS,
        lambda cache: _weights(cache, "shape_predictor_5_face_landmarks.dat", HEAD),
    ),
    "tflite": Reader(
        tflite_onnx.convert, WEIGHTS,
        lambda cache: _weights(cache, "blazeface_short_range.tflite"),
    ),
    "torch": Reader(torch_zip.read, WEIGHTS, _torch),
    "keras": Reader(keras_h5.read, WEIGHTS, _hdf5),
    "xception": Reader(mini_xception.convert, WEIGHTS, _hdf5),
    "mtcnn": Reader(
        mtcnn_lz4.read_arrays, WEIGHTS, lambda cache: _weights(cache, "mtcnn_pnet.lz4")
    ),
    "onnx": Reader(onnx_shapes.free, WEIGHTS, _onnx),
    "pickle": Reader(plain_pickle.load, SOURCE, _stores),
    "deepface": Reader(_pickle, SOURCE, _stores),
    "npy": Reader(
        lambda data: npy.parse(data, "it"), SOURCE, lambda _: [_one_array(np.ones((2, 3), np.float32))]
    ),
    "npz": Reader(_npz, SOURCE, _npz_seeds),
    "compreface": Reader(_compreface, SOURCE, lambda _: [DUMP]),
    "archive": Reader(_archive, SOURCE, _archives),
}  # fmt: skip


def check(reader: Reader, data: bytes) -> None:
    """Any other exception is a bug of the reader."""
    try:
        reader.read(data)
    except reader.refusals:
        return
