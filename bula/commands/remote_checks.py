"""Hash the objects of a remote in parallel, and replace damaged ones.

Every object is streamed: a thread holds one block of it, whatever its size.
"""

import functools
import io
import itertools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.pool import ThreadPool
from typing import Any, Literal, NamedTuple

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_data.hashfile.db import HashFileDB
from dvc_data.hashfile.hash import fobj_md5, get_hash_stream
from dvc_objects.fs.errors import AuthError, ConfigError, RemoteMissingDepsError
from tqdm import tqdm

from bula.commands.remote_objects import (
    HASH_NAMES,
    MANIFEST_ENDING,
    Key,
    Named,
    Objects,
    add_files,
    parse_manifest,
)
from bula.errors import UserError

# DVC reads so many bytes at once, and its hash of a text file of DVC 2 depends on the number.
CHUNK_BYTES = 2**20
# Bytes per request to a server. Smaller requests are slower, and eight times 8 MiB need too much
# memory, as do the clients' own defaults (50 MB for S3).
BLOCK_BYTES = 4 * 2**20
# A manifest has about 90 bytes per file, and needs ten times its size of memory.
MOST_MANIFEST_BYTES = 12 * 2**20
REASON_CHARACTERS = 160
# Error classes of the clients of S3, HTTP and SSH that are no OSError, by module.
CLIENT_ERRORS = {
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "aiohttp": ("ClientError",),
    "asyncssh": ("Error",),
}

MENDED = "mended"
State = Literal["good", "missing", "short", "changed", "invalid", "unreadable"]
Progress = Callable[[int], object]
# DVC keeps an index in SQLite. Two threads that open it at once get "database is locked".
INDEX_LOCK = threading.Lock()


class Check(NamedTuple):
    """The state of an object, its size in bytes and a detail.

    The size is None if it is not known.
    """

    state: State
    size: int | None = None
    detail: str = ""


class Problem(NamedTuple):
    """An object that is not good.

    `repair` is "mended", the reason why it was not mended, or empty if nobody tried.
    """

    key: Key
    named: Named
    check: Check
    repair: str = ""

    @property
    def is_mended(self) -> bool:
        """Return whether a good copy replaced the object."""
        return self.repair == MENDED


class Stores(NamedTuple):
    """A remote and this machine's cache, by the kind of hash."""

    remote: dict[str, HashFileDB]
    cache: dict[str, HashFileDB]


class Result(NamedTuple):
    """The check of one remote: number of objects, their size in bytes, and problems."""

    objects: int
    bytes: int
    problems: list[Problem]


def client_errors(modules: Iterable[str] = tuple(CLIENT_ERRORS)) -> tuple[type[Exception], ...]:
    """Return the errors that the clients of remotes raise."""
    found: list[type[Exception]] = [OSError]
    for module in modules:
        if module in sys.modules:
            names = CLIENT_ERRORS[module]
            found += [getattr(sys.modules[module], name) for name in names]
    return tuple(found)


def failed_request(error: FileNotFoundError) -> BaseException | None:
    """Return why a request failed, or None if the object does not exist.

    The client for HTTP calls every failure a missing file, and keeps the reason as the cause.
    """
    cause = error.__cause__
    if isinstance(cause, FileNotFoundError) or not isinstance(cause, client_errors(["aiohttp"])):
        return None
    return cause


def short_reason(error: BaseException) -> str:
    """Return the first line of an error's message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:REASON_CHARACTERS]


@contextmanager
def remote_errors(where: str) -> Iterator[None]:
    """Turn errors of DVC and of a remote's client into a UserError."""
    try:
        yield
    except RemoteMissingDepsError as error:
        what = f"the packages for {error.protocol} are not installed"
        raise UserError(where, what, "install them as docs/remotes.md describes") from error
    except (DvcException, AuthError, ConfigError) as error:
        fix = "run this in the repository, and look at `dvc remote list`"
        raise UserError(where, short_reason(error), fix) from error
    except client_errors() as error:
        what = f"it cannot be reached ({short_reason(error)})"
        raise UserError(where, what, "check its address, the network and your access") from error


def open_stores(repo: Repo, remote: str) -> Stores:
    """Return a remote and the cache, after one request to the remote."""
    stores = Stores({}, {"md5": repo.cache.local, "md5-dos2unix": repo.cache.legacy})
    with remote_errors(f"remote {remote}"):
        with INDEX_LOCK:
            for name in HASH_NAMES:
                stores.remote[name] = repo.cloud.get_remote_odb(remote, "verify-remote", name)
        store = stores.remote["md5"]
        try:
            store.fs.info(store.path)
        except FileNotFoundError as error:
            if failed := failed_request(error):
                raise failed from error
    return stores


# --- one object --------------------------------------------------------------------------------


def _hash(store: HashFileDB, key: Key, progress: Progress) -> tuple[str, int]:
    """Return the hash and the number of bytes of an object."""
    size = 0
    path = store.oid_to_path(key.object_id)
    with store.fs.open(path, "rb", block_size=BLOCK_BYTES) as file:
        stream = get_hash_stream(file, key.hash_name)
        while chunk := stream.read(CHUNK_BYTES):
            size += len(chunk)
            progress(len(chunk))
    return stream.hash_value, size


def _failed(error: Exception) -> Check:
    """Return the state of an object that could not be read."""
    if isinstance(error, FileNotFoundError):
        failed = failed_request(error)
        return Check("unreadable", None, short_reason(failed)) if failed else Check("missing")
    return Check("unreadable", None, short_reason(error))


def check_size(store: HashFileDB, key: Key, expected: int | None) -> Check:
    """Compare an object's size in bytes with the expected size if known.

    No byte of the object is read.
    """
    try:
        info = store.fs.info(store.oid_to_path(key.object_id))
    except client_errors() as error:
        return _failed(error)
    if info["type"] == "directory":
        return Check("unreadable", None, "it is a folder")
    size = info["size"]
    if None not in (expected, size) and size != expected:
        state: State = "short" if size < expected else "changed"
        return Check(state, size, f"it has {size} bytes instead of {expected}")
    return Check("good", size)


def check_file(store: HashFileDB, key: Key, expected: int | None, progress: Progress) -> Check:
    """Compare an object with its name, and with its size in bytes if known."""
    check = check_size(store, key, expected)
    if check.state != "good":
        return check
    try:
        md5, size = _hash(store, key, progress)
    except client_errors() as error:
        return _failed(error)
    if md5 != key.object_id.removesuffix(MANIFEST_ENDING):
        return Check("changed", size, f"its {size} bytes have the MD5 {md5}")
    return Check("good", size)


def check_whole(store: HashFileDB, key: Key) -> Check:
    """Compare an object with its name, without progress and a known size."""
    return check_file(store, key, None, lambda count: None)


def read_manifest(store: HashFileDB, key: Key) -> tuple[Check, dict[str, str]]:
    """Check a manifest, and return the MD5 of each of its files by path.

    Only bytes of the right hash are parsed.
    """
    check = check_whole(store, key)
    if check.state != "good":
        return check, {}
    if check.size is None or check.size > MOST_MANIFEST_BYTES:
        detail = f"a manifest may have at most {MOST_MANIFEST_BYTES} bytes"
        return check._replace(state="invalid", detail=detail), {}
    try:
        with store.fs.open(store.oid_to_path(key.object_id), "rb") as file:
            content = file.read(MOST_MANIFEST_BYTES)
    except client_errors() as error:
        return Check("unreadable", None, short_reason(error)), {}
    if fobj_md5(io.BytesIO(content), name=key.hash_name) + MANIFEST_ENDING != key.object_id:
        return Check("changed", len(content), "it changed while it was read"), {}
    try:
        return check, parse_manifest(content)
    except ValueError:
        return check._replace(state="invalid", detail="it does not list the files of a folder"), {}


def _cached_size(stores: Stores, key: Key) -> int | None:
    """Return the bytes of an object's copy in the cache, or None."""
    cache = stores.cache[key.hash_name]
    path = cache.oid_to_path(key.object_id)
    return cache.fs.size(path) if cache.fs.exists(path) else None


def _compare_with_cache(stores: Stores, key: Key, check: Check) -> Check:
    """Call an object short if the cache has more bytes of it."""
    if check.state != "changed" or check.size is None:
        return check
    cached = _cached_size(stores, key)
    if cached is None or cached <= check.size:
        return check
    detail = f"it has {check.size} bytes, and the cache has {cached}"
    return Check("short", check.size, detail)


# --- all objects -------------------------------------------------------------------------------


def _list_files(stores: Stores, objects: Objects, pool: ThreadPool) -> list[tuple[Key, Check]]:
    """Check all manifests, and add their files to the objects.

    If the remote's manifest is damaged, a good one of the cache lists the files.
    """
    manifests = [key for key in objects if key.is_manifest]

    def read(key: Key) -> tuple[Key, Check, dict[str, str]]:
        check, files = read_manifest(stores.remote[key.hash_name], key)
        if check.state not in ("good", "invalid"):
            cached, files = read_manifest(stores.cache[key.hash_name], key)
            if cached.state != "good":
                details = filter(None, [check.detail, "its files are not checked"])
                check = check._replace(detail="; ".join(details))
        return key, check, files

    checks = []
    for key, check, files in pool.imap_unordered(read, manifests):
        add_files(objects, key, files)
        checks.append((key, check))
    return checks


def _check_files(
    stores: Stores, objects: Objects, pool: ThreadPool, progress: Progress, *, sizes: bool
) -> Iterator[tuple[Key, Check]]:
    """Yield each object that is no manifest with its check.

    With `sizes` no file is read, and the cache states the sizes that the lock does not.
    """

    def check(key: Key) -> tuple[Key, Check]:
        store = stores.remote[key.hash_name]
        expected = objects[key].size
        if not sizes:
            return key, check_file(store, key, expected, progress)
        return key, check_size(store, key, expected or _cached_size(stores, key))

    files = [key for key in objects if not key.is_manifest]
    yield from pool.imap_unordered(check, files)


def verify(
    stores: Stores,
    objects: Objects,
    jobs: int,
    *,
    fix: bool = False,
    sizes: bool = False,
    label: str = "",
) -> Result:
    """Check all objects of a remote in parallel, and mend them with `fix`.

    With `sizes`, only names and sizes of files are compared. The files of folders are added to
    `objects`. The problems are sorted by file.
    """
    total = sum(named.size or 0 for named in objects.values())
    read = 0
    problems = []
    with (
        ThreadPool(jobs) as pool,
        tqdm(total=total, desc=label, unit="B", unit_scale=True, disable=sizes or None) as bar,
    ):
        checks = _list_files(stores, objects, pool)
        progress = functools.partial(_advance, bar)
        checks_of_files = _check_files(stores, objects, pool, progress, sizes=sizes)
        for key, check in itertools.chain(checks, checks_of_files):
            read += check.size or 0
            if check.state != "good":
                check = _compare_with_cache(stores, key, check)
                problems.append(Problem(key, objects[key], check))
        if fix:
            problems = mend(stores, problems, pool)
    problems.sort(key=lambda problem: next(iter(problem.named.places)))
    return Result(len(objects), read, problems)


def _advance(bar: "tqdm[None]", count: int) -> None:
    """Move a progress bar from any thread."""
    with bar.get_lock():
        bar.update(count)


# --- repair ------------------------------------------------------------------------------------


def mend(stores: Stores, problems: list[Problem], pool: ThreadPool) -> list[Problem]:
    """Upload good copies of the cache, and return all problems with their repair.

    A manifest is uploaded after all files of its folder, because `dvc push` takes the files for
    present if the manifest is.
    """

    def mend_one(problem: Problem) -> Problem:
        return problem._replace(repair=_upload(stores, problem))

    files = [problem for problem in problems if not problem.key.is_manifest]
    manifests = [problem for problem in problems if problem.key.is_manifest]
    done = pool.map(mend_one, files)
    incomplete = _outputs(problem for problem in done if not problem.is_mended)
    for problem in manifests:
        if _outputs([problem]) & incomplete:
            done.append(problem._replace(repair="files of the folder are not mended"))
        else:
            done.append(mend_one(problem))
    return done


def _outputs(problems: Iterable[Problem]) -> set[str]:
    """Return the outputs that the objects belong to."""
    places = [place for problem in problems for place in problem.named.places.values()]
    return {place.output for place in places}


def _upload(stores: Stores, problem: Problem) -> str:
    """Replace an object by the copy in the cache.

    Return MENDED, or the reason why it is not mended.
    """
    key = problem.key
    if problem.check.state == "invalid":
        return "the lock itself names this manifest: run its stage again"
    cache = stores.cache[key.hash_name]
    # DVC gives types to only a part of this class.
    store: Any = stores.remote[key.hash_name]
    source = cache.oid_to_path(key.object_id)
    copy = check_whole(cache, key)
    if copy.state == "missing":
        return "this machine's cache does not have it"
    if copy.state != "good":
        return f"this machine's cache is damaged too: delete {source}"
    target = store.oid_to_path(key.object_id)
    try:
        # DVC's own upload would keep an object that exists.
        store.makedirs(store.fs.parent(target))
        store.fs.put_file(source, target)
    except client_errors() as error:
        return f"the upload failed ({short_reason(error)})"
    after = check_whole(store, key)
    if after.state != "good":
        return f"after the upload it is {after.state}"
    store.protect(target)
    return MENDED
