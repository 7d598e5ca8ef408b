"""The embedded Postgres: a private server per home folder, started on demand and left running."""

from __future__ import annotations

import enum
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg2

from indexer.embedded_system import (
    Account,
    account_for,
    exclusive,
    is_private,
    locked,
    make_private,
    make_way,
    open_own,
    processes,
    programs,
    shared_memory_type,
    sync_folder,
)
from indexer.errors import DatabaseUnavailable

NAME = "facesearch"  # of the role and of the database
PORT = 5432  # only part of the socket's file name; given everywhere because of PGPORT
SOCKET = f".s.PGSQL.{PORT}"
SOCKET_PATH_BYTES = 103  # macOS; Linux allows 107

CONNECT_SECONDS = 5
POLL_SECONDS = 0.01
SILENCE_SECONDS = 60.0  # a server in recovery is not silent: it says so, and may take hours
ORPHAN_SECONDS = 3.0
STOP_SIGNALS = ((signal.SIGINT, 120.0), (signal.SIGQUIT, 30.0))  # fast, then immediate shutdown
LOG_BYTES = 10 * 2**20

# One call for all files of a file system; file by file it takes seconds on a busy disk.
FILES_SYNC = "syncfs" if sys.platform == "linux" else "fsync"

SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "maintenance_work_mem": "512MB",
    "max_wal_size": "4GB",
    "recovery_init_sync_method": FILES_SYNC,
    "idle_in_transaction_session_timeout": "10min",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    # Names and vectors never reach the log: neither statements nor parameters nor the details of
    # errors, such as the key that exists already. See also ROLE.
    "log_statement": "none",
    "log_min_error_statement": "panic",
    "log_min_duration_statement": "-1",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",
}
INITDB = (
    f"--username={NAME}",
    "--auth-local=trust",  # whoever can enter the socket's folder
    "--auth-host=reject",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--data-checksums",
    "--no-instructions",
    "--no-sync",  # but once at the end
)
SYNC = ("--sync-only", f"--sync-method={FILES_SYNC}")
# The messages of failed statements quote values; the client gets them, the log does not.
ROLE = f"ALTER ROLE {NAME} SET log_min_messages = 'log';\n"
DATABASE = f"CREATE DATABASE {NAME};\n"


@dataclass(frozen=True, slots=True)
class Status:
    running: bool
    pid: int | None
    folder: Path
    url: str
    version: str | None


class Answer(enum.Enum):
    """What a connection attempt met."""

    READY = enum.auto()
    BUSY = enum.auto()  # starting or recovering
    SILENT = enum.auto()  # nothing, or a server that is going down


class EmbeddedPostgres:
    """The server of one home folder, for any number of processes at a time."""

    def __init__(self, home: Path, *, user: str = "") -> None:
        """`user`: system user to run Postgres as when we are root."""
        self._user = user
        self._folder = home.expanduser().resolve() / "postgres"
        self._data = self._folder / "data"
        digest = hashlib.sha256(os.fsencode(self._data)).hexdigest()[:16]
        self._cluster = f"{NAME}-{digest}"  # in the command lines of all its processes

    @property
    def url(self) -> str:
        """SQLAlchemy's address of the database."""
        host = quote(os.fsencode(self._sockets(self._account())))
        return f"postgresql+psycopg2://{NAME}@/{NAME}?host={host}&port={PORT}"

    def ensure_running(self) -> None:
        """Return once the server accepts connections, starting it if need be. DatabaseUnavailable."""
        account = self._account()
        if self._ask(account) is Answer.READY:
            return
        try:
            make_way(self._folder, account)
            make_private(self._folder, account)
            with exclusive(self._folder / "lock", account):
                self._make_sockets(account)
                self._start(account)
        except OSError as error:
            raise self._unusable(error) from error

    def stop(self) -> bool:
        """Shut the server down and wait for its end; False when it is not running."""
        account = self._account()
        try:
            if not self._data.is_dir():
                return False
            with exclusive(self._folder / "lock", account):
                return self._stop()
        except OSError as error:
            raise self._unusable(error) from error

    def status(self) -> Status:
        """Facts about the server; starts and creates nothing."""
        account = self._account()
        version = None
        answer = self._ask(account)
        if answer is Answer.READY:
            with suppress(psycopg2.OperationalError):
                connection = self._connect(account)
                version = connection.info.parameter_status("server_version")
                connection.close()
        running = answer is not Answer.SILENT
        return Status(running, self._postmaster(), self._folder, self.url, version)

    def _account(self) -> Account:
        return account_for(self._user, self._data)

    def _unusable(self, error: OSError) -> DatabaseUnavailable:
        return DatabaseUnavailable(
            f"cannot use {self._folder} as user id {os.geteuid()}: {error}; another folder can be"
            " set with FACESEARCH_HOME, another server with FACESEARCH_DATABASE_URL"
        )

    def _sockets(self, account: Account) -> Path:
        folder = self._folder / "run"
        # A comma would divide the path into two hosts.
        if len(os.fsencode(folder / SOCKET)) <= SOCKET_PATH_BYTES and "," not in str(folder):
            return folder
        # Not gettempdir(): TMPDIR differs between processes that have to meet here.
        return Path("/tmp", f"{self._cluster}-{account.uid}")  # noqa: S108 - checked by is_private  # nosec B108

    def _make_sockets(self, account: Account) -> None:
        folder = self._sockets(account)
        make_private(folder, account)
        if not is_private(folder, account):
            raise DatabaseUnavailable(
                f"{folder} has to be a folder of user id {account.uid} with mode 0700: remove it"
            )

    def _connect(self, account: Account) -> psycopg2.extensions.connection:
        return psycopg2.connect(
            host=str(self._sockets(account)),
            port=PORT,
            user=NAME,
            dbname=NAME,
            connect_timeout=CONNECT_SECONDS,
        )

    def _ask(self, account: Account) -> Answer:
        # Somebody else's folder in /tmp could hold somebody else's server.
        if not is_private(self._sockets(account), account):
            return Answer.SILENT
        try:
            self._connect(account).close()
        except psycopg2.OperationalError as error:
            return _answer(str(error))
        return Answer.READY

    def _start(self, account: Account) -> None:
        server: subprocess.Popen[bytes] | None = None
        began = heard = time.monotonic()
        while (answer := self._ask(account)) is not Answer.READY:
            if server is None:
                server = self._launch(account)
            elif server.poll() is not None:
                raise DatabaseUnavailable(f"Postgres did not start: {self._log_tail()}")
            now = time.monotonic()
            if answer is Answer.BUSY:
                heard = now
            if now - heard > SILENCE_SECONDS:
                raise DatabaseUnavailable(
                    f"the Postgres of {self._data} (process {self._postmaster()}) does not answer"
                    f" at {self._sockets(account)}, and does not end"
                )
            if server is None and now - heard > ORPHAN_SECONDS:
                self._kill_orphans()
            time.sleep(min(max(POLL_SECONDS, (now - began) / 20), 1.0))

    def _launch(self, account: Account) -> subprocess.Popen[bytes] | None:
        """The postmaster; None while processes of an earlier one are there."""
        # The server and all its children inherit this lock, and it ends with the last of them:
        # unlike the process id in postmaster.pid it cannot be stale, nor another container's.
        alive = open_own(self._folder / "alive", account)
        try:
            if not locked(alive) or self._postmaster() is not None:
                return None
            folder = programs(self._folder, account)
            self._clean(account)
            if not (self._data / "PG_VERSION").is_file():
                self._initialise(folder, account)
            log = self._open_log(account)
            try:
                server = account.spawn(self._command(folder, account), log, alive)
            finally:
                os.close(log)
        finally:
            os.close(alive)
        # Nobody else would reap it: a zombie in a service that runs for long.
        threading.Thread(target=server.wait, name="postgres", daemon=True).start()
        return server

    def _clean(self, account: Account) -> None:
        """Remove what a killed server left, and a killed initdb."""
        # Postgres would take a zombie, or a recycled process id, for a running server.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        for name in (SOCKET, f"{SOCKET}.lock"):
            (self._sockets(account) / name).unlink(missing_ok=True)
        for unfinished in self._folder.glob("initdb-*"):
            shutil.rmtree(unfinished, ignore_errors=True)

    def _command(self, folder: Path, account: Account) -> list[str]:
        sockets = str(self._sockets(account)).replace('"', '""')
        settings = SETTINGS | {
            "cluster_name": self._cluster,
            "unix_socket_directories": f'"{sockets}"',
            "dynamic_shared_memory_type": shared_memory_type(),
        }
        options = [part for item in settings.items() for part in ("-c", "=".join(item))]
        return [str(folder / "postgres"), "-D", str(self._data), *options]

    def _initialise(self, folder: Path, account: Account) -> None:
        """Make the data folder in one step, so that half of one is never taken for a whole."""
        if self._data.exists() and any(self._data.iterdir()):
            raise DatabaseUnavailable(f"{self._data} is neither empty nor a Postgres data folder")
        fresh = Path(tempfile.mkdtemp(prefix="initdb-", dir=self._folder))
        os.chown(fresh, account.uid, account.gid)
        single = ["--single", "-c", "exit_on_error=on", "-c", "fsync=off", "-D", fresh, "postgres"]
        for program, arguments, text in (
            ("initdb", ["-D", fresh, *INITDB], ""),
            ("postgres", single, ROLE + DATABASE),
            ("initdb", ["-D", fresh, *SYNC], ""),
        ):
            done = account.run([folder / program, *map(str, arguments)], text)
            if done.returncode:
                raise DatabaseUnavailable(f"Postgres's data was not made: {done.stdout[-2000:]}")
        fresh.rename(self._data)
        sync_folder(self._folder)

    def _open_log(self, account: Account) -> int:
        path = self._folder / "log"
        with suppress(FileNotFoundError):
            if path.lstat().st_size > LOG_BYTES:
                path.replace(path.with_name("log.1"))
        return open_own(path, account, os.O_APPEND)

    def _log_tail(self) -> str:
        text = (self._folder / "log").read_text(errors="replace")
        return text[-2000:].strip() or "it left nothing in its log"

    def _postmaster(self) -> int | None:
        """Process id of our server, if it is one."""
        try:
            line = (self._data / "postmaster.pid").read_text().partition("\n")[0]
            claimed = abs(int(line))  # negative: a single-user server
        except (OSError, ValueError):
            return None
        return claimed if self._lives(claimed) else None

    def _kill_orphans(self) -> None:
        """End the children of a killed postmaster: busy ones do not notice that it is gone."""
        ours = [(pid, command) for pid, command in processes() if self._cluster in command]
        if any(f"cluster_name={self._cluster}" in command for _, command in ours):
            return  # a postmaster
        for pid, command in ours:
            if command.startswith(f"postgres: {self._cluster}: "):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _stop(self) -> bool:
        pid = self._postmaster()
        if pid is None:
            return False
        for number, seconds in STOP_SIGNALS:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if not self._lives(pid):
                    return True
                time.sleep(POLL_SECONDS)
        raise DatabaseUnavailable(f"Postgres (process {pid}) does not end")

    def _lives(self, pid: int) -> bool:
        """Whether the process is there, and of our cluster, however it was started."""
        marks = (self._cluster, str(self._data))
        return any(number == pid and any(m in line for m in marks) for number, line in processes())


def _answer(message: str) -> Answer:
    """The meaning of libpq's error; psycopg2 gives no code for a connection that was refused."""
    if "FATAL:" not in message or "shutting down" in message:
        return Answer.SILENT
    # Any other refusal, such as too many clients, comes from a server that runs.
    return Answer.BUSY if "the database system is" in message else Answer.READY
