"""Connections: pooled, healed when the embedded server was killed, one transaction per block."""

from __future__ import annotations

import re
import select
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NewType

import psycopg2
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine.interfaces import IsolationLevel
from sqlalchemy.exc import DBAPIError

from indexer.embedded import EmbeddedPostgres
from indexer.errors import DatabaseUnavailable
from indexer.settings import Settings
from indexer.vault import Vault

ReadConnection = NewType("ReadConnection", Connection)
WriteConnection = NewType("WriteConnection", Connection)

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
POOL_SIZE = 16
VAULT = "vault"
CONNECT_TIMEOUT_S = 5
SILENCE: Mapping[str, int] = MappingProxyType(
    {
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }
)
"""Of a server behind a network: one that is gone without a word is noticed in half a minute, not in hours."""
UNWRITABLE = frozenset({"42501", "25006"})
"""SQLSTATE where files or the whole server may only be read: a disk that is read-only, a standby."""


class Database:
    """`read` and `write` blocks are transactions; nothing else commits."""

    def __init__(
        self, url: str, embedded: EmbeddedPostgres | None, vault: Vault | None = None
    ) -> None:
        self.vault = vault or Vault()
        self.engine = _engine(url, embedded, self.vault)
        self.embedded = embedded
        self._glancing = _engine(url, embedded, self.vault, isolation_level="AUTOCOMMIT")

    @classmethod
    def open(cls, settings: Settings) -> Database:
        """Connects lazily; the embedded server is started by the first connection that needs it. Raises BadKey."""
        vault = Vault.open(settings)
        if settings.database_url:
            url = _psycopg2_url(settings.database_url)
            return cls(with_password(url, settings.database_password_file), None, vault)
        embedded = EmbeddedPostgres(settings.home, user=settings.postgres_user)
        return cls(embedded.url, embedded, vault)

    @contextmanager
    def read(self) -> Iterator[ReadConnection]:
        """One snapshot for all its statements."""
        with _reported(), self.engine.connect() as connection:
            connection.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            with connection.begin():
                yield ReadConnection(connection)

    @contextmanager
    def glance(self) -> Iterator[ReadConnection]:
        """For one statement: it has a snapshot of its own, so no transaction is begun and ended."""
        with _reported(), self._glancing.connect() as connection:
            yield ReadConnection(connection)

    @contextmanager
    def write(self) -> Iterator[WriteConnection]:
        """Committed at the end of the block, rolled back when it raises."""
        with _reported(), self.engine.begin() as connection:
            yield WriteConnection(connection)

    @contextmanager
    def locked(self, key: str) -> Iterator[bool]:
        """A lock of that name across processes; yields at once whether it was free to take.

        It is held by a connection of its own and vanishes with the process.
        """
        with _reported(), self.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            taken = bool(connection.scalar(_TRY_LOCK, {"key": key}))
            try:
                yield taken
            finally:
                if taken:
                    with suppress(DBAPIError):
                        connection.execute(_UNLOCK, {"key": key})

    def upgrade(self) -> None:
        """Bring the schema up to date; does nothing, quickly, when it is."""
        with _reported(), self.engine.connect() as connection:
            if _revisions(connection) == [_head()]:
                return
            connection.rollback()
            _migrate(connection)
            connection.commit()

    def revision(self) -> str | None:
        from alembic.runtime.migration import MigrationContext  # noqa: PLC0415

        with _reported(), self.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()

    def close(self) -> None:
        self.engine.dispose()
        self._glancing.dispose()


def vault_of(connection: ReadConnection | WriteConnection) -> Vault:
    """What hides and shows embeddings and uploads that this connection reads and writes."""
    held: Vault = connection.get_execution_options()[VAULT]
    return held


class Listener:
    """Hears the hints that writers send; a lost one costs only time, for the caller also polls."""

    def __init__(self, database: Database, channel: str) -> None:
        """Raises DatabaseUnavailable."""
        try:
            with _reported():
                self._raw = database.engine.raw_connection()
        except psycopg2.Error as error:  # nobody wraps it here
            raise DatabaseUnavailable("there is no connection for notifications") from error
        driver: Any = self._raw.driver_connection
        self._connection = driver
        try:
            driver.autocommit = True
            with driver.cursor() as cursor:
                cursor.execute(f'LISTEN "{channel}"')
        except psycopg2.Error as error:
            self.close()
            raise DatabaseUnavailable("there is no connection for notifications") from error

    def wait(self, seconds: float) -> None:
        """Return after a hint or after `seconds`. Raises DatabaseUnavailable when the server is gone."""
        try:
            ready, _, _ = select.select([self._connection], [], [], seconds)
            if ready:
                self._connection.poll()
                self._connection.notifies.clear()
        except (psycopg2.Error, OSError, ValueError) as error:
            raise DatabaseUnavailable("the connection for notifications is gone") from error

    def close(self) -> None:
        with suppress(Exception):
            self._raw.invalidate()


_TRY_LOCK = text("SELECT pg_try_advisory_lock(hashtextextended(:key, 0))")
_UNLOCK = text("SELECT pg_advisory_unlock(hashtextextended(:key, 0))")
_REVISION = re.compile(r"^(?:down_)?revision\b.* = [\"'](\w+)[\"']", re.MULTILINE)
_VERSION_TABLE = text("SELECT to_regclass('alembic_version')")
_VERSIONS = text("SELECT version_num FROM alembic_version")


def _engine(
    url: str,
    embedded: EmbeddedPostgres | None,
    vault: Vault,
    isolation_level: IsolationLevel = "READ COMMITTED",
) -> Engine:
    engine = create_engine(
        url,
        isolation_level=isolation_level,
        pool_size=POOL_SIZE,
        max_overflow=POOL_SIZE,
        pool_pre_ping=True,
        pool_timeout=10,
        hide_parameters=True,
        execution_options={VAULT: vault},
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "facesearch",
            **SILENCE,
        },
    )
    if embedded is not None:
        event.listen(engine, "do_connect", _heal(embedded))
    return engine


def with_password(url: str, file: Path | None) -> str:
    """The URL with the password that the file holds. Raises DatabaseUnavailable."""
    if file is None:
        return url
    try:
        password = file.read_text().strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DatabaseUnavailable(f"the password file {file} cannot be read: {error}") from error
    return make_url(url).set(password=password).render_as_string(hide_password=False)


def _psycopg2_url(url: str) -> str:
    """`postgres://` and `postgresql://` name the driver that is installed."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme in ("postgres", "postgresql"):
        return f"postgresql+psycopg2://{rest}"
    return url


def _heal(embedded: EmbeddedPostgres) -> Callable[..., object]:
    def connect(
        _dialect: object, _record: object, args: list[Any], params: dict[str, Any]
    ) -> object:
        # First, for nobody else may answer in the server's place while it is down.
        embedded.ensure_running()
        return psycopg2.connect(*args, **params)

    return connect


@contextmanager
def _reported() -> Iterator[None]:
    """A lost connection becomes DatabaseUnavailable; a mistake in a statement stays what it is.

    The driver's own errors are those of COPY, which goes past SQLAlchemy.
    """
    try:
        yield
    except (DBAPIError, psycopg2.Error) as error:
        origin: BaseException | None = error
        lost = False
        if isinstance(error, DBAPIError):
            origin, lost = error.orig, error.connection_invalidated
        if lost or isinstance(origin, psycopg2.OperationalError):
            raise DatabaseUnavailable(
                f"the database cannot be reached: {_reason(origin)}"
            ) from error
        if getattr(origin, "pgcode", None) in UNWRITABLE:
            raise DatabaseUnavailable(f"the database cannot be used: {_reason(origin)}") from error
        raise


def _reason(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "connection lost"


def _head() -> str | None:
    """The revision that the migrations lead to; None where only Alembic can tell."""
    files = (MIGRATIONS / "versions").glob("*.py")
    named = Counter(name for file in files for name in _REVISION.findall(file.read_text()))
    heads = [name for name, times in named.items() if times == 1]  # nothing comes after it
    return heads[0] if len(heads) == 1 else None


def _revisions(connection: Connection) -> Sequence[str]:
    """Of the database: one, or none where it is new."""
    if connection.scalar(_VERSION_TABLE) is None:
        return []
    return connection.scalars(_VERSIONS).all()


def _migrate(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - slow to import, and there is seldom something to do
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
