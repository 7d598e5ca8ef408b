"""Embeddings and uploads that are of no use without a key."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from indexer.errors import BadKey, KeyMissing
from indexer.settings import Settings
from indexer.vault import KEY_BYTES, MAGIC, Vault, rotation

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))


def unit(rows: int, dimension: int, seed: int = 1) -> np.ndarray:
    made = np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@pytest.mark.parametrize("dimension", [1, 2, 64, 128, 512, 1024])
def test_a_rotation_is_orthogonal(dimension: int) -> None:
    made = rotation(KEY, dimension)
    assert np.abs(made @ made.T - np.eye(dimension)).max() < 1e-12
    assert np.array_equal(made, rotation(KEY, dimension))


def test_a_rotation_stays_what_it_is() -> None:
    """If this fails, nothing that was stored can be found any more."""
    made = rotation(bytes(32), 128)
    assert np.round(made[0, :3], 6).tolist() == [-0.051067, 0.046942, 0.087229]
    assert np.round(made[127, -3:], 6).tolist() == [0.065882, -0.082321, -0.013583]


def test_rotations_are_spread_evenly() -> None:
    entries = np.concatenate([rotation(bytes([n]) * 32, 64).ravel() for n in range(20)]) * 8
    assert abs(entries.mean()) < 0.02
    assert entries.std() == pytest.approx(1, abs=0.02)
    signs = [np.linalg.slogdet(rotation(bytes([n]) * 32, 8))[0] for n in range(60)]
    assert 15 < sum(sign > 0 for sign in signs) < 45


def test_distances_stay_and_nothing_else_does() -> None:
    vault, rows = Vault((KEY,)), unit(500, 128)
    first, second = vault.new_seal(), vault.new_seal()
    hidden, elsewhere = vault.hide(first, rows), vault.hide(second, rows)
    assert hidden.dtype == np.float32
    assert np.abs(hidden @ hidden.T - rows @ rows.T).max() < 1e-6
    assert np.abs(vault.show(first, hidden) - rows).max() < 1e-6
    assert np.allclose(vault.hide(first, rows[0]), hidden[0], atol=1e-6)
    for pair in ((hidden, rows), (hidden, elsewhere)):
        alike = np.abs((pair[0] * pair[1]).sum(axis=1))
        assert alike.mean() < 0.1  # of unrelated directions it is 0.07
    assert vault.hide(None, rows) is rows


def test_keys() -> None:
    seal = Vault((KEY,)).new_seal()
    rows = unit(3, 128)
    hidden = Vault((KEY,)).hide(seal, rows)
    assert np.abs(Vault((OTHER, KEY)).show(seal, hidden) - rows).max() < 1e-6
    for vault in (Vault(), Vault((OTHER,))):
        with pytest.raises(KeyMissing, match="FACESEARCH_TEMPLATE_KEY_FILE"):
            vault.hide(seal, rows)
        with pytest.raises(KeyMissing):
            vault.check(seal)
    with pytest.raises(KeyMissing):
        Vault().new_seal()
    assert not Vault().on


@given(st.binary(max_size=300))
def test_files(data: bytes) -> None:
    vault = Vault((KEY,))
    closed = vault.close_file(data)
    assert closed != vault.close_file(data)
    assert len(data) < 8 or data not in closed.removeprefix(MAGIC)  # which hypothesis knows
    assert vault.open_file(closed) == data
    assert Vault((OTHER, KEY)).open_file(closed) == data
    with pytest.raises(KeyMissing):
        Vault((OTHER,)).open_file(closed)
    with pytest.raises(BadKey):
        vault.open_file(closed[:-1] + bytes([closed[-1] ^ 1]))


def test_files_without_a_key() -> None:
    assert Vault().close_file(b"\xff\xd8 photo") == b"\xff\xd8 photo"
    assert Vault((KEY,)).open_file(b"\xff\xd8 photo") == b"\xff\xd8 photo"


def test_keys_from_settings(tmp_path: Path) -> None:
    told = [base64.b64encode(key).decode() for key in (KEY, OTHER)]
    file = tmp_path / "key"
    file.write_text("\n".join(told) + "\n")
    seal = Vault((OTHER,)).new_seal()
    Vault.open(Settings(template_key_file=file)).check(seal)
    Vault.open(Settings(template_key=SecretStr(told[1]))).check(seal)
    assert not Vault.open(Settings()).on
    assert told[0] not in repr(Settings(template_key=SecretStr(told[0])))
    for bad in ("abc", base64.b64encode(bytes(KEY_BYTES - 1)).decode(), "ü"):
        with pytest.raises(BadKey, match="openssl rand -base64 32"):
            Vault.open(Settings(template_key=SecretStr(bad)))
    with pytest.raises(BadKey, match="cannot be read"):
        Vault.open(Settings(template_key_file=tmp_path / "none"))
