"""Stores of other programs: DeepFace's pickle and .npz, names with embeddings, CompreFace's database."""

from __future__ import annotations

import pickle
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer import commands, moving, runs
from indexer.commands import Tools
from indexer.errors import Conflict
from indexer.moving import Asked
from indexer.search import Query, Searcher
from indexer.transfer.errors import BadSource
from recognition.errors import ModelUnavailable
from recognition.images import ImageLimits, decode
from recognition.pipeline import FOREIGN_VERSION, Recipe, Selection
from tests.indexer.conftest import write_tree

DEEPFACE = Recipe("Dlib", "mtcnn", "deepface")
STORE = "ds_model_dlib_detector_mtcnn_aligned_normalization_base_expand_0"
Row = dict[str, Any]


@pytest.fixture
def people(tmp_path: Path, photos: dict[str, bytes]) -> Path:
    return write_tree(
        tmp_path / "my_people",
        {
            "Barack/1.jpg": photos["obama1"],
            "Barack/2.jpg": photos["obama2"],
            "Joe/1.jpg": photos["biden"],
            "nobody.png": photos["nobody"],
        },
    )


def deepface_rows(tools: Tools, people: Path) -> list[Row]:
    """As DeepFace's find writes them: a row per face, one without embedding for a photograph without a face."""
    rows: list[Row] = []
    for path in sorted(people.rglob("*.*")):
        image = decode(path.read_bytes(), ImageLimits())
        row: Row = {"identity": str(path), "hash": "0" * 40, "embedding": None}
        row |= {f"target_{side}": 0 for side in "xywh"}
        found = tools.recognizer.represent([image], DEEPFACE, Selection())[0]
        for face in found:
            box = face.detection.box
            sides = {f"target_{side}": int(getattr(box, side)) for side in "xywh"}
            rows.append(row | sides | {"embedding": face.embedding.astype(float).tolist()})
        if not found:
            rows.append(row)
    return rows


def as_pickle(path: Path, rows: list[Row]) -> Path:
    path = path.with_suffix(".pkl")
    path.write_bytes(pickle.dumps(rows, pickle.HIGHEST_PROTOCOL))
    return path


def as_npz(path: Path, rows: list[Row]) -> Path:
    """As DeepFace 0.0.103 does: text and numbers only, zeros where there is no face."""
    path = path.with_suffix(".npz")
    dimension = max(len(row["embedding"] or ()) for row in rows)
    columns: dict[str, Any] = {
        "embedding": np.array([row["embedding"] or [0.0] * dimension for row in rows]),
        "has_embedding": np.array([row["embedding"] is not None for row in rows]),
    }
    for name in ("identity", "hash"):
        columns[name] = np.array([row[name] for row in rows], np.str_)
    for side in "xywh":
        columns[f"target_{side}"] = np.array([row[f"target_{side}"] for row in rows], np.int64)
    np.savez(path, **columns)
    return path


def nearest(tools: Tools, gallery: str, probe: Any) -> list[tuple[str, float]]:
    searcher = Searcher(tools.database, None)
    query = Query(gallery=gallery, threshold=2.0)
    found = searcher.find(searcher.target(gallery), np.asarray([probe], np.float32), query)
    return [(match.identity, match.distance) for match in found.matches[0]]


@pytest.mark.parametrize("write", [as_pickle, as_npz])
def test_deepfaces_store_goes_on_as_it_was(
    tools: Tools, gallery: str, people: Path, photos: dict[str, bytes], write: Any
) -> None:
    rows = deepface_rows(tools, people)
    path = write(people / STORE, rows)
    done = moving.restore(tools, Asked(path, gallery=gallery), quiet=True)
    assert done["counts"] == {"identities": 3, "images": 4, "faces": 3}
    assert moving.restore(tools, Asked(path, gallery=gallery), quiet=True)["counts"] == {
        "exists": 4, "faces": 0,
    }  # fmt: skip
    found = {p["identity"]: p["images"] for p in commands.list_identities(tools, gallery)}
    assert found == {"Barack": 2, "Joe": 1, "nobody": 0}
    recipe = Searcher(tools.database, None).target(gallery).space.recipe
    assert (recipe.model, recipe.detector, recipe.align) == ("Dlib", "mtcnn", "deepface")
    assert recipe.version == FOREIGN_VERSION
    (name, distance), *_ = nearest(tools, gallery, rows[0]["embedding"])
    assert (name, round(distance, 5)) == ("Barack", 0)
    image = decode(photos["obama3"], ImageLimits())
    (face,) = tools.recognizer.represent([image], recipe, Selection())[0]
    (name, distance), *_ = nearest(tools, gallery, face.embedding)
    assert (name, distance < 0.07) == ("Barack", True), "DeepFace's own alignment can be repeated"


def test_deepfaces_photographs_are_embedded_anew(tools: Tools, gallery: str, people: Path) -> None:
    path = as_pickle(people / STORE, deepface_rows(tools, people))
    asked = Asked(path, gallery=gallery, images=people)
    done = moving.restore(tools, asked, quiet=True)
    assert (done["vectors"], done["counts"]["faces"]) == ("embedded anew", 3)
    recipe = Searcher(tools.database, None).target(gallery).space.recipe
    assert (recipe.model, recipe.detector) == (tools.settings.model, tools.settings.detector)
    assert recipe.version != FOREIGN_VERSION
    assert moving.restore(tools, asked, quiet=True)["counts"]["exists"] == 4
    with pytest.raises(Conflict, match="--images"):
        moving.restore(tools, Asked(path, gallery=gallery), quiet=True)


@pytest.mark.parametrize(
    "name",
    [
        STORE.replace("_aligned", "_unaligned"),
        STORE.replace("expand_0", "expand_10"),
        STORE.replace("dlib", "unheard"),
        STORE.replace("mtcnn", "unheard"),
        STORE.replace("base", "unheard"),
    ],
)
def test_what_cannot_be_repeated_takes_embeddings_only(
    tools: Tools, gallery: str, people: Path, name: str
) -> None:
    rows = deepface_rows(tools, people)
    moving.restore(tools, Asked(as_pickle(people / name, rows), gallery=gallery), quiet=True)
    recipe = Searcher(tools.database, None).target(gallery).space.recipe
    assert recipe.model == f"deepface:{name.removeprefix('ds_model_')}/128"
    assert nearest(tools, gallery, rows[0]["embedding"])[0][0] == "Barack"
    probe = people / "Joe" / "1.jpg"
    with pytest.raises(ModelUnavailable, match="another program"):
        commands.find(tools, probe, gallery, 5, 0.5)
    with pytest.raises(ModelUnavailable, match="another program"):
        runs.index(
            tools, people, tools.recipe(gallery, None, None), runs.Order(gallery, 20, quiet=True)
        )


def test_a_store_under_another_name_says_nothing_of_its_make(
    tools: Tools, gallery: str, people: Path
) -> None:
    path = as_pickle(people / "faces", deepface_rows(tools, people))
    with pytest.raises(BadSource, match="--made-by"):
        moving.restore(tools, Asked(path, gallery=gallery), quiet=True)
    moving.restore(tools, Asked(path, gallery=gallery, made_by="my Dlib"), quiet=True)
    assert Searcher(tools.database, None).target(gallery).space.recipe.model == (
        "deepface:my Dlib/128"
    )


@pytest.mark.parametrize(
    ("paths", "people"),
    [
        (["/db/Ann/1.jpg", "/db/Ann/x/2.jpg", "/db/Bob.jpg"], ["Ann", "Ann", "Bob"]),
        (["old/Ann/1.jpg", "old/Bob/1.jpg"], ["Ann", "Bob"]),
        (["C:\\old\\Ann\\1.jpg", "C:\\old\\Ann\\2.jpg"], ["Ann", "Ann"]),
        (["db/db/1.jpg", "db/Bob/1.jpg"], ["1", "Bob"]),
        (["../../Ann/1.jpg", "../../Bob/2.jpg"], ["Ann", "Bob"]),
    ],
)
def test_whose_photograph_it_is(
    tools: Tools, gallery: str, tmp_path: Path, paths: list[str], people: list[str]
) -> None:
    folder = tmp_path / "db"
    folder.mkdir()
    base = {"hash": "", "target_x": 1, "target_y": 2, "target_w": 3, "target_h": 4}
    rows = [
        base | {"identity": path, "embedding": [float(n + 1)] * 128} for n, path in enumerate(paths)
    ]
    moving.restore(tools, Asked(as_pickle(folder / STORE, rows), gallery=gallery), quiet=True)
    found = {p["identity"] for p in commands.list_identities(tools, gallery)}
    assert found == set(people)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"embedding": [1.0] * 127}, "one length"),
        ({"embedding": [float("nan")] * 128}, "finite"),
        ({"embedding": [0.0] * 128}, "zeros"),
        ({"embedding": ["1"] * 128}, "numbers"),
        ({"embedding": [[1.0]] * 128}, "numbers"),
        ({"embedding": 7}, "one length"),
        ({"identity": None}, "path"),
        ({"identity": "/my_people/a\x00b/1.jpg"}, "control"),
        ({"target_x": "1"}, "place"),
        ({"target_x": float("inf")}, "place"),
    ],
)
def test_a_bad_row_stops_the_whole_import(
    tools: Tools, gallery: str, people: Path, change: Row, match: str
) -> None:
    rows = deepface_rows(tools, people)
    rows[1] |= change
    with pytest.raises(BadSource, match=match):
        moving.restore(tools, Asked(as_pickle(people / STORE, rows), gallery=gallery), quiet=True)
    assert gallery not in commands.gallery_names(tools)


def test_names_and_embeddings(tools: Tools, gallery: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(5, 64))
    path = tmp_path / "faces.npz"
    np.savez(path, names=np.array(["Ann", "Bob", "Ann", "Zoë", "Bob"]), embeddings=rows)
    with pytest.raises(BadSource, match="--made-by"):
        moving.restore(tools, Asked(path, gallery=gallery), quiet=True)
    asked = Asked(path, gallery=gallery, made_by="my network v2")
    done = moving.restore(tools, asked, quiet=True)
    assert done["counts"] == {"identities": 3, "images": 5, "faces": 5}
    assert moving.restore(tools, asked, quiet=True)["counts"]["exists"] == 5
    assert nearest(tools, gallery, rows[3])[0][0] == "Zoë"
    target = Searcher(tools.database, None).target(gallery)
    assert (target.space.recipe.model, target.space.dimension) == ("npz:my network v2/64", 64)


HEAD = """--
-- PostgreSQL database dump
--

-- Dumped from database version 11.5
-- Dumped by pg_dump version 11.5

SET statement_timeout = 0;
SET client_encoding = 'UTF8';
SELECT pg_catalog.set_config('search_path', '', false);

CREATE TABLE public.embedding (
    id uuid NOT NULL,
    subject_id uuid,
    embedding double precision[] NOT NULL,
    calculator character varying(255) NOT NULL,
    img_id uuid
);

ALTER TABLE public.embedding OWNER TO postgres;

"""
KEY, DEMO = "11111111-2222-4333-8444-555555555555", "00000000-0000-0000-0000-000000000002"


def block(table: str, columns: str, rows: list[list[str | None]]) -> str:
    """Of a dump, values escaped as COPY does."""
    lines = []
    for row in rows:
        told = [
            "\\N"
            if v is None
            else v.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")
            for v in row
        ]
        lines.append("\t".join(told))
    head = f"--\n-- Data for Name: {table}; Type: TABLE DATA; Schema: public; Owner: postgres\n--\n"
    return "\n".join([head, f"COPY public.{table} ({columns}) FROM stdin;", *lines, "\\.", "\n\n"])


def dump(
    path: Path, vectors: Any, images: list[bytes | None], names: list[str],
    calculators: list[str] | None = None, keys: list[str] | None = None,
) -> Path:  # fmt: skip
    """A database of CompreFace with one image and one embedding per name."""
    calculators = calculators or ["facenet.Calculator"] * len(names)
    keys = keys or [KEY] * len(names)
    ids = {
        pair: str(uuid.uuid5(uuid.NAMESPACE_OID, str(pair)))
        for pair in zip(names, keys, strict=True)
    }
    image_ids = [str(uuid.uuid5(uuid.NAMESPACE_URL, str(n))) for n in range(len(names))]
    embeddings: list[list[str | None]] = [
        [str(uuid.uuid4()), ids[name, key], "{" + ",".join(map(repr, row)) + "}", calculator,
         None if image is None else image_id]
        for name, key, row, calculator, image, image_id
        in zip(names, keys, np.asarray(vectors).tolist(), calculators, images, image_ids, strict=True)
    ]  # fmt: skip
    blobs: list[list[str | None]] = [
        [i, "\\x" + image.hex()] for i, image in zip(image_ids, images, strict=True) if image
    ]
    text = HEAD + block("app", "id, name", [["1", "COPY public.subject (id) FROM stdin;"]])
    text += block("embedding", "id, subject_id, embedding, calculator, img_id", embeddings)
    text += block("img", "id, content", blobs)
    models: list[list[str | None]] = [
        ["1", "staff", str(uuid.uuid4()), "1", KEY, "R", None],
        ["0", "Demo", str(uuid.uuid4()), "0", DEMO, "R", None],
    ]
    text += block("model", "id, name, guid, app_id, api_key, type, created_date", models)
    subjects: list[list[str | None]] = [[i, key, name] for (name, key), i in ids.items()]
    text += block("subject", "id, api_key, subject_name", subjects)
    path.write_text(text + "--\n-- PostgreSQL database dump complete\n--\n")
    return path


def test_comprefaces_database(
    tools: Tools, gallery: str, tmp_path: Path, photos: dict[str, bytes]
) -> None:
    vectors = np.random.default_rng(2).normal(size=(4, 512))
    images = [photos["obama1"], photos["obama2"], photos["biden"], None]
    names = ["Barack", "Barack", "Tab\tand \\ and\nline", "Joe"]
    path = dump(tmp_path / "frs.sql", vectors, images, names)
    with pytest.raises(BadSource, match="control"):
        moving.restore(tools, Asked(path, gallery=gallery), quiet=True)
    path = dump(tmp_path / "frs.sql", vectors, images, ["Barack", "Barack", "O\\'Hara Ünï", "Joe"])
    done = moving.restore(tools, Asked(path, gallery=gallery), quiet=True)
    assert done["counts"] == {"identities": 3, "images": 4, "faces": 4}
    assert moving.restore(tools, Asked(path, gallery=gallery), quiet=True)["counts"]["exists"] == 4
    assert nearest(tools, gallery, vectors[2])[0][0] == "O\\'Hara Ünï"
    recipe = Searcher(tools.database, None).target(gallery).space.recipe
    assert recipe.model == "compreface:facenet.Calculator/512"


def test_comprefaces_photographs_are_embedded_anew(
    tools: Tools, gallery: str, tmp_path: Path, photos: dict[str, bytes]
) -> None:
    images = [photos["obama1"], photos["obama2"], photos["biden"], None]
    names = ["Barack", "Barack", "Joe", "Ann"]
    path = dump(tmp_path / "frs.sql", np.ones((4, 512)), images, names)
    done = moving.restore(tools, Asked(path, gallery=gallery, embed=True), quiet=True)
    assert (done["counts"]["faces"], done["counts"]["unavailable"]) == (3, 1)
    probe = tmp_path / "probe.jpg"
    probe.write_bytes(photos["obama3"])
    (face,) = commands.find(tools, probe, gallery, 5, None)["results"]
    assert [match["identity"] for match in face["matches"]] == ["Barack"]


def test_several_collections_and_calculators_are_a_choice(
    tools: Tools, gallery: str, tmp_path: Path
) -> None:
    names, keys = ["Ann", "Bob", "Ann", "Demo"], [KEY, KEY, KEY, DEMO]
    other = "insightface.Calculator@arcface_r100_v1"
    calculators = ["facenet.Calculator", other, other, other]
    nothing: list[bytes | None] = [None] * 4
    path = dump(tmp_path / "frs.sql", np.eye(4, 8), nothing, names, calculators, keys)
    with pytest.raises(BadSource, match="'Demo', 'staff'") as told:
        moving.restore(tools, Asked(path, gallery=gallery), quiet=True)
    assert KEY not in str(told.value), "keys are secrets"
    asked = Asked(path, gallery=gallery, collection="staff")
    with pytest.raises(BadSource, match="arcface_r100_v1"):
        moving.restore(tools, asked, quiet=True)
    asked = Asked(path, gallery=gallery, collection="staff", made_by=other)
    done = moving.restore(tools, asked, quiet=True)
    assert done["counts"] == {"identities": 2, "images": 2, "faces": 2}


@pytest.mark.parametrize(
    "cut",
    ["PGDMP\x01\x0e", HEAD, HEAD + "COPY public.subject (id, api_key, subject_name) FROM stdin;\n",
     HEAD + block("subject", "id, api_key, subject_name", [["1", "2"]]),
     HEAD + block("embedding", "id, subject_id, embedding, calculator, img_id",
                  [["1", "2", "1,2", "c", None]])
     + block("subject", "id, api_key, subject_name", [["2", "k", "Ann"]])],
)  # fmt: skip
def test_a_broken_dump_is_refused(tools: Tools, gallery: str, tmp_path: Path, cut: str) -> None:
    path = tmp_path / "frs.sql"
    path.write_text(cut)
    with pytest.raises(BadSource):
        moving.restore(tools, Asked(path, gallery=gallery), quiet=True)
    assert gallery not in commands.gallery_names(tools)
