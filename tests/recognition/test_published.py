"""Weights published at addresses: fetched from a real server over HTTP that is slow, wrong, or breaks off."""

from __future__ import annotations

import bz2
import hashlib
import io
import random
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from recognition.download import Patience
from recognition.errors import BadWeights, LicenceRefused, WeightsMissing
from recognition.registry import DETECTORS
from recognition.weights import Policy, Weights, WeightsCache
from tests.recognition.publisher import CUT_AT, Publisher, publishing

DATA = random.Random(1).randbytes(1_000_000)
OTHER = random.Random(2).randbytes(1_000_000)
HASTE = Patience(connect_s=2, silence_s=2, total_s=20, attempts=2, pause_s=0.01)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing(files={"net.onnx": DATA}) as started:
        yield started


def published(publisher: Publisher, **changes: object) -> Weights:
    values: dict[str, object] = {
        "name": "net.onnx",
        "sha256": sha(DATA),
        "licence": "MIT",
        "origin": "this test",
        "urls": (f"{publisher.url}/net.onnx",),
    }
    return Weights(**(values | changes))  # type: ignore[arg-type]


def cache(folder: Path, **policy: object) -> WeightsCache:
    return WeightsCache(folder, policy=Policy(patience=HASTE, **policy))  # type: ignore[arg-type]


def left(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if not p.name.endswith(".lock")}


def test_a_published_file_is_fetched_once(publisher: Publisher, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    store = cache(tmp_path, watch=lambda *told: seen.append(told))
    path = store.path(published(publisher))
    assert path.read_bytes() == DATA
    assert store.path(published(publisher)) == path
    assert publisher.asked == [("net.onnx", "")]
    assert left(tmp_path) == {"net.onnx"}
    assert seen[0] == ("net.onnx", 0, len(DATA))
    assert seen[-1] == ("net.onnx", len(DATA), len(DATA))


@pytest.mark.parametrize("etags", [True, False])
def test_what_breaks_off_is_resumed(publisher: Publisher, tmp_path: Path, etags: bool) -> None:
    publisher.cuts, publisher.etags = 2, etags
    assert cache(tmp_path).path(published(publisher)).read_bytes() == DATA
    assert [asked for _, asked in publisher.asked] == [
        "", f"bytes={CUT_AT}-", f"bytes={2 * CUT_AT}-",
    ]  # fmt: skip


def test_another_process_resumes_what_one_left(publisher: Publisher, tmp_path: Path) -> None:

    def killed(_file: str, done: int, _total: int | None) -> None:
        if done > 200_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache(tmp_path, watch=killed).path(published(publisher))
    size = (tmp_path / "net.onnx.part").stat().st_size
    assert 200_000 < size < len(DATA)
    publisher.asked.clear()
    assert cache(tmp_path).path(published(publisher)).read_bytes() == DATA
    assert publisher.asked == [("net.onnx", f"bytes={size}-")]
    assert left(tmp_path) == {"net.onnx"}


def test_no_mirror_goes_on_with_what_another_sent(publisher: Publisher, tmp_path: Path) -> None:
    """Without ETags nothing would tell the halves apart before the hash does."""
    publisher.files |= {"bad": OTHER}
    publisher.cuts, publisher.etags = 1, False
    publisher.refusals = []
    urls = (f"{publisher.url}/bad", f"{publisher.url}/net.onnx")

    def broken(_file: str, done: int, _total: int | None) -> None:
        if done == CUT_AT:
            publisher.refusals = [404]

    store = cache(tmp_path, watch=broken)
    assert store.path(published(publisher, urls=urls)).read_bytes() == DATA
    assert publisher.asked == [("bad", ""), ("bad", f"bytes={CUT_AT}-"), ("net.onnx", "")]


def test_a_server_without_ranges_starts_anew(publisher: Publisher, tmp_path: Path) -> None:
    publisher.cuts, publisher.ranges = 1, False
    assert cache(tmp_path).path(published(publisher)).read_bytes() == DATA
    assert [asked for _, asked in publisher.asked] == ["", f"bytes={CUT_AT}-"]


def test_a_file_that_changed_meanwhile_starts_anew(publisher: Publisher, tmp_path: Path) -> None:
    """Without a hash only the ETag tells that the halves are of two versions."""
    publisher.files["net.onnx"] = OTHER
    publisher.cuts = 5
    store = cache(tmp_path, watch=lambda *_: publisher.files.update({"net.onnx": DATA}))
    path = store.path(published(publisher, sha256=None))
    assert path.read_bytes() == DATA


def test_a_part_that_is_whole_is_used(publisher: Publisher, tmp_path: Path) -> None:

    def killed(_file: str, done: int, _total: int | None) -> None:
        if done == len(DATA):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache(tmp_path, watch=killed).path(published(publisher))
    publisher.asked.clear()
    assert cache(tmp_path).path(published(publisher)).read_bytes() == DATA
    assert publisher.asked == [("net.onnx", f"bytes={len(DATA)}-")]


def test_wrong_content_is_removed_and_the_next_mirror_asked(
    publisher: Publisher, tmp_path: Path
) -> None:
    publisher.files["bad"] = OTHER
    urls = (f"{publisher.url}/bad", f"{publisher.url}/gone", f"{publisher.url}/net.onnx")
    assert cache(tmp_path).path(published(publisher, urls=urls)).read_bytes() == DATA
    assert [path for path, _ in publisher.asked] == ["bad", "gone", "net.onnx"]
    assert left(tmp_path) == {"net.onnx"}


def test_wrong_content_everywhere_says_so(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files["net.onnx"] = OTHER
    with pytest.raises(WeightsMissing) as caught:
        cache(tmp_path).path(published(publisher))
    for part in (sha(OTHER), sha(DATA), f"{publisher.url}/net.onnx", "removed", str(tmp_path)):
        assert part in str(caught.value)
    assert left(tmp_path) == set()


def test_a_busy_server_is_asked_again(publisher: Publisher, tmp_path: Path) -> None:
    publisher.refusals = [503]
    assert cache(tmp_path).path(published(publisher)).read_bytes() == DATA
    assert len(publisher.asked) == 2


def test_without_a_network_everything_is_named(tmp_path: Path) -> None:
    with publishing() as gone:
        url = f"{gone.url}/net.onnx"
    with pytest.raises(WeightsMissing) as caught:
        cache(tmp_path).path(published(gone, urls=(url,)))
    for part in ("net.onnx", url, sha(DATA), str(tmp_path), "refused"):
        assert part in str(caught.value)


def test_a_failure_is_remembered_for_a_while(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files.clear()
    store = cache(tmp_path)
    for _ in range(2):
        with pytest.raises(WeightsMissing, match="404"):
            store.path(published(publisher))
    assert len(publisher.asked) == 1


def test_downloads_can_be_switched_off(publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="FACESEARCH_DOWNLOADS"):
        WeightsCache(tmp_path, download=False).path(published(publisher))
    with pytest.raises(WeightsMissing, match="not fetched here"):
        cache(tmp_path, addresses=False).path(published(publisher))
    assert publisher.asked == []


def test_a_mirror_is_asked_first_for_everything(publisher: Publisher, tmp_path: Path) -> None:
    pnet = DETECTORS["mtcnn"].weights[0]
    publisher.files |= {"m/net.onnx": DATA, f"m/{pnet.name}": b"not it"}
    store = cache(tmp_path, mirror=f"{publisher.url}/m/")
    assert store.path(published(publisher)).read_bytes() == DATA
    assert publisher.asked == [("m/net.onnx", "")]
    store.path(pnet)
    assert publisher.asked[-1] == (f"m/{pnet.name}", "")
    assert store.state(pnet) == "valid", "the package has it too"


def test_sizes_are_bounded(publisher: Publisher, tmp_path: Path) -> None:
    for size, says in ((len(DATA) - 1, "more than"), (len(DATA) + 1, "in place of")):
        with pytest.raises(WeightsMissing, match=says):
            cache(tmp_path).path(published(publisher, size=size))
    publisher.lengths = False
    with pytest.raises(WeightsMissing, match="more than"):
        cache(tmp_path).path(published(publisher, size=1000))
    assert left(tmp_path) == set()
    assert cache(tmp_path).path(published(publisher)).read_bytes() == DATA


def test_without_a_hash_the_length_must_be_known(publisher: Publisher, tmp_path: Path) -> None:
    publisher.lengths = False
    unknown = published(publisher, sha256=None)
    with pytest.raises(WeightsMissing, match="neither"):
        cache(tmp_path).path(unknown)
    publisher.lengths = True
    store = cache(tmp_path)
    assert store.path(unknown).read_bytes() == DATA
    assert store.state(unknown) == "unverifiable"


def test_a_compressed_file_is_unpacked(publisher: Publisher, tmp_path: Path) -> None:
    packed = bz2.compress(DATA)
    publisher.files["net.bz2"] = packed
    weights = published(publisher, urls=(f"{publisher.url}/net.bz2",), archive="bz2")
    assert cache(tmp_path / "a").path(weights).read_bytes() == DATA
    with pytest.raises(WeightsMissing, match="unpacks to more"):
        cache(tmp_path / "b").path(replace(weights, size=1000))
    publisher.files["net.bz2"] = packed[:5000]
    with pytest.raises(WeightsMissing, match="cannot be unpacked"):
        cache(tmp_path / "c").path(weights)
    publisher.files["net.bz2"] = packed
    with pytest.raises(WeightsMissing, match=sha(packed)):
        cache(tmp_path / "d").path(replace(weights, archive_sha256="0" * 64))
    for folder in "bcd":
        assert left(tmp_path / folder) == set()


def test_files_of_one_zip_come_together(publisher: Publisher, tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as zipped:
        zipped.writestr("pack/a.onnx", DATA)
        zipped.writestr("pack/b.onnx", OTHER)
    publisher.files["pack.zip"] = out.getvalue()
    a, b = (
        published(
            publisher, name=f"our_{name}", sha256=sha(data), archive="zip", archive_member=name,
            urls=(f"{publisher.url}/pack.zip",),
        )
        for name, data in (("a.onnx", DATA), ("b.onnx", OTHER))
    )  # fmt: skip
    paths = cache(tmp_path).ensure([a, b])
    assert [path.read_bytes() for path in paths] == [DATA, OTHER]
    assert publisher.asked == [("pack.zip", "")]
    with pytest.raises(WeightsMissing, match=sha(DATA)):
        cache(tmp_path).path(replace(a, name="x", sha256="0" * 64))
    assert left(tmp_path) == {"our_a.onnx", "our_b.onnx"}
    with pytest.raises(WeightsMissing, match=r"no file c\.onnx"):
        cache(tmp_path).path(replace(a, name="c", archive_member="c.onnx"))


def test_redirects_stay_where_they_are_safe(publisher: Publisher, tmp_path: Path) -> None:
    publisher.redirects = {
        "moved": "/net.onnx",
        "away": "http://example.org/net.onnx",
        "elsewhere": "https://example.invalid/net.onnx",
    }
    weights = published(publisher, urls=(f"{publisher.url}/moved",))
    assert cache(tmp_path / "a").path(weights).read_bytes() == DATA
    weights = published(publisher, urls=(f"{publisher.url}/away",))
    with pytest.raises(WeightsMissing, match="not an https address"):
        cache(tmp_path / "b").path(weights)
    weights = published(publisher, urls=(f"{publisher.url}/elsewhere",))
    with pytest.raises(WeightsMissing, match="which is refused"):
        cache(tmp_path / "c").path(weights)


def test_several_at_once_fetch_once(publisher: Publisher, tmp_path: Path) -> None:
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(cache(tmp_path).path(published(publisher))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert publisher.asked == [("net.onnx", "")]


def test_a_file_put_there_by_hand(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(OTHER)
    assert cache(tmp_path).path(published(publisher, sha256=None)).read_bytes() == OTHER
    with pytest.raises(BadWeights, match=sha(DATA)):
        cache(tmp_path).path(published(publisher))
    assert publisher.asked == []


def test_licences_that_forbid_commercial_use_can_be_refused(
    publisher: Publisher, tmp_path: Path
) -> None:
    weights = published(publisher, non_commercial=True, licence="research only")
    store = cache(tmp_path, non_commercial=False)
    with pytest.raises(LicenceRefused, match=r"research only.*FACESEARCH_ALLOW_NON_COMMERCIAL"):
        store.path(weights)
    assert publisher.asked == []
    allowed = cache(tmp_path)
    allowed.derived("x.onnx", [weights], lambda paths: paths[0].read_bytes())
    with pytest.raises(LicenceRefused):
        store.derived("x.onnx", [weights], lambda paths: paths[0].read_bytes())


@pytest.mark.parametrize(
    "changes",
    [
        {"urls": ("http://example.org/net.onnx",)},
        {"urls": ("http://127.0.0.1.example.org/net.onnx",)},
        {"urls": ("file:///etc/passwd",)},
        {"urls": ()},
        {"name": "../net.onnx"},
        {"name": ".lock"},
        {"package": "x==1", "member": "net.onnx", "sha256": None},
    ],
)
def test_what_no_spec_may_say(publisher: Publisher, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"address|nowhere|name|sha256"):
        published(publisher, **changes)
