"""The weights folder as the settings want it, and what the commands do with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from indexer.settings import Settings
from recognition import catalogue
from recognition.errors import BadWeights, LicenceRefused, WeightsMissing
from recognition.registry import Models
from recognition.sources import Watch, unwatched
from recognition.weights import Policy, State, Weights, WeightsCache


@dataclass(frozen=True, slots=True)
class Pulled:
    """What became of one file; `why` says more where it failed or was refused."""

    weights: Weights
    state: Literal["fetched", "here", "failed", "refused"]
    bytes: int | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """One file, and the names of what uses it."""

    file: catalogue.File
    state: State
    used_by: tuple[str, ...]


def weights_cache(settings: Settings, *, addresses: bool, watch: Watch = unwatched) -> WeightsCache:
    """`addresses`: whether what no package carries is fetched when it is needed."""
    policy = Policy(
        addresses=addresses,
        mirror=settings.weights_mirror,
        non_commercial=settings.allow_non_commercial,
        watch=watch,
    )
    return WeightsCache(settings.weights_folder, download=settings.downloads, policy=policy)


def usual(cache: WeightsCache, models: Models, settings: Settings) -> list[catalogue.Entry]:
    """What works without a choice: the default model and detector, and what is built in or in packages."""
    return [
        entry
        for entry in catalogue.entries(cache, models)
        if entry.name in (settings.model, settings.detector)
        or all(file.weights.package for file in entry.files)
    ]


def pull(cache: WeightsCache, wanted: Sequence[Weights], watch: Watch) -> list[Pulled]:
    """Fetch what is missing. What fails does not keep the others from being fetched."""
    return [done for batch in cache.batches(wanted) for done in _pull(cache, batch, watch)]


def check(cache: WeightsCache, models: Models) -> list[Checked]:
    """Every file of every spec; those that are here are read."""
    every = catalogue.entries(cache, models)
    files = {f.path: f for entry in every for f in entry.files + entry.alternatives}
    return [
        Checked(
            file,
            cache.state(file.weights),
            tuple(dict.fromkeys(e.name for e in every if file in e.files + e.alternatives)),
        )
        for file in files.values()
    ]


def _pull(cache: WeightsCache, batch: Sequence[Weights], watch: Watch) -> list[Pulled]:
    here = {w.name for w in batch if cache.present(w)}
    try:
        cache.ensure(batch, watch)
    except LicenceRefused as error:
        return [Pulled(w, "refused", None, str(error)) for w in batch]
    except (WeightsMissing, BadWeights) as error:
        return [
            Pulled(w, "here", _size(cache, w))
            if cache.valid(w)
            else Pulled(w, "failed", None, str(error))
            for w in batch
        ]
    return [Pulled(w, "here" if w.name in here else "fetched", _size(cache, w)) for w in batch]


def _size(cache: WeightsCache, weights: Weights) -> int:
    return (cache.folder / weights.name).stat().st_size
