"""``tessera doctor``: whether this machine and these settings can serve, and what to mend."""

from __future__ import annotations

import errno
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import typer
from pydantic import SecretStr
from pydantic_settings import SettingsError

from app.cli.host import check_certificate
from app.cli.options import DataDirOption, load_settings, refusing
from app.cli.output import ExitCode, JsonOption, print_json, print_table
from app.composition import (
    build_authenticator,
    build_encoder,
    load_encoder_files,
    open_security,
    open_wrapper,
    opened_vault,
    postgres_part,
)
from app.errors import TesseraError
from app.faces import YunetDetector
from app.gallery import Collection, EncoderMismatch
from app.gallery.sqlite import queries
from app.gallery.sqlite.database import DATABASE_NAME
from app.gallery.sqlite.snapshot import snapshot
from app.gallery.sqlite.vault import require_vault
from app.memory import limit_bytes
from app.openvino import available_cores
from app.security.store import is_begun
from app.settings import MEBIBYTE, Settings

CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16")
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
NEEDED_MEMORY = 1024 * MEBIBYTE
"""Encoder, detector and one photograph of 50 megapixels, which takes up to 760 MB while it is decoded."""
NEEDED_DISK = 100 * MEBIBYTE
SLOW_FSYNC_MS = 50.0
FSYNCS = 5


class State(StrEnum):
    """How a check ended; ``mend`` is what keeps the service from working, or what is stored from being safe."""

    OK = "ok"
    NOTE = "note"
    MEND = "mend"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what was found, and what to do about it."""

    name: str
    state: State
    found: str
    advice: str = ""


def doctor(as_json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Looks at machine, settings, weights and data directory and says what to mend; exit code 1 if there is anything.

    The service may be running. In the data directory, or in the folder that it would be made in, a file of 4 kB is
    written and removed.
    """
    with refusing():
        settings = load_settings(data_dir=data_dir)
        looks = (_in_force, _files, _weights, _data_directory, _gallery, _keys)
        checks = [_cpu(), _cores(), _memory(), *(check for look in looks for check in look(settings))]
    mend = any(check.state is State.MEND for check in checks)
    if as_json:
        print_json({"ok": not mend, "checks": [asdict(check) for check in checks]})
    else:
        print_table(("", "state", "found", "what to do"), [(c.name, c.state, c.found, c.advice) for c in checks])
    raise typer.Exit(ExitCode.NO if mend else ExitCode.OK)


def _cpu() -> Check:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    lines = [
        line.partition(":")[2].split() for line in text.splitlines() if line.lower().startswith(("flags", "features"))
    ]
    flags = [flag for flag in CPU_FLAGS if lines and flag in lines[0]]
    found = f"{platform.machine()}, {' '.join(flags) or 'no vector instructions that it asks for'}"
    if not {"avx2", "asimd"} & set(flags):
        return Check("processor", State.NOTE, found, "It works, several times slower than with AVX2 or NEON.")
    if not BF16_FLAGS & set(flags):
        advice = (
            "Without bf16 the encoder takes longer. tessera-m encodes a face in less than half of tessera-l's time."
        )
        return Check("processor", State.NOTE, found, advice)
    return Check("processor", State.OK, found)


def _cores() -> Check:
    return Check("cores", State.OK, f"{available_cores()} of {os.cpu_count()} may be used (affinity, control group)")


def _memory() -> Check:
    total = limit_bytes()
    found = f"{total // MEBIBYTE} MiB may be used"
    if total < NEEDED_MEMORY:
        advice = "Too little for large photographs: give it 1 GiB, or lower TESSERA_FACES__MAX_IMAGE_PIXELS."
        return Check("memory", State.MEND, found, advice)
    return Check("memory", State.OK, found)


def _in_force(settings: Settings) -> Iterator[Check]:
    # The data directory has a line of its own, and its default depends on the user.
    defaults = {
        section: type(getattr(settings, section)).model_construct(data_dir=Path()).model_dump(mode="json")
        for section in Settings.model_fields
    }
    changed = [
        f"{section}.{name}={value}"
        for section, own in settings.model_dump(mode="json").items()
        for name, value in own.items()
        if name != "data_dir" and value != defaults[section].get(name)
    ]
    yield Check("settings", State.OK, ", ".join(changed) or "all as shipped")
    wanted, (_, hard) = 2 * settings.server.max_connections, resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        advice = "Raise the limit (ulimit -n), or lower TESSERA_SERVER__MAX_CONNECTIONS."
        yield Check("open files", State.NOTE, f"{hard} allowed, {wanted} for all connections", advice)


def _files(settings: Settings) -> Iterator[Check]:
    """The files that settings name."""
    server, gallery = settings.server, settings.gallery

    def certificate() -> str:
        check_certificate(server)
        return str(server.tls_certificate)

    def master_key() -> str:
        wrapper = open_wrapper(settings)
        return f"{wrapper.key_id} is in use" if wrapper is not None else "none"

    if server.tls_certificate is not None:
        yield _tried("certificate", certificate, "Name a PEM file with the chain and one with its key.")
    if gallery.master_key_file is not None or gallery.key_wrapper is not None:
        advice = "Look at TESSERA_GALLERY__MASTER_KEY_FILE or __KEY_WRAPPER; without the right key templates are lost."
        yield _tried("master key", master_key, advice)


def _weights(settings: Settings) -> Iterator[Check]:
    def encoder() -> str:
        files = load_encoder_files(settings)
        info = build_encoder(settings, files.weights).info
        return (
            f"{info.name} {info.version} ({info.sha256[:12]}, as described) on {info.runtime} {info.precision}, "
            f"{info.device}; calibration {files.calibration.version}"
        )

    def detector() -> str:
        YunetDetector()
        return "YuNet, as shipped"

    yield _tried("encoder", encoder, "See TESSERA_ENCODING__* and TESSERA_DECISIONS__CALIBRATION.")
    yield _tried("detector", detector, "Install the package anew.")


def _tried(name: str, look: Callable[[], str], advice: str) -> Check:
    try:
        return Check(name, State.OK, look())
    except (TesseraError, SettingsError, OSError) as error:
        return Check(name, State.MEND, str(error), advice)


def _data_directory(settings: Settings) -> Iterator[Check]:
    directory = settings.gallery.data_dir.resolve()
    exists = directory.is_dir()
    place = directory if exists else next(path for path in directory.parents if path.exists())
    found = str(directory) if exists else f"{directory} is made at the first start, in {place}"
    if exists and directory.stat().st_mode & 0o077:
        yield Check("data directory", State.NOTE, f"{found}: others may read it", f"chmod 700 {directory}")
    else:
        yield Check("data directory", State.OK, found)
    free = shutil.disk_usage(place).free
    enough = free >= NEEDED_DISK
    advice = "" if enough else "Make room: enrolments are refused on a full disk."
    yield Check("free disk", State.OK if enough else State.MEND, f"{free // MEBIBYTE} MiB", advice)
    try:
        median = _fsync_ms(place)
    except OSError as error:
        no_room = error.errno in {errno.ENOSPC, errno.EDQUOT}
        advice = "Make room." if no_room else f"Give the user that runs the service the right to write {place}."
        yield Check("writing", State.MEND, f"{place}: {error.strerror or error}", advice)
        return
    slow = median > SLOW_FSYNC_MS
    advice = "Every enrolment waits for the disk: a faster one enrols faster." if slow else ""
    yield Check("writing", State.NOTE if slow else State.OK, f"write and fsync take {median:.1f} ms", advice)


def _fsync_ms(place: Path) -> float:
    """The median time of a write of 4 kB that is on the disk, milliseconds. Raises OSError."""
    times = []
    with tempfile.NamedTemporaryFile(dir=place, prefix=".tessera-doctor-") as file:
        for _ in range(FSYNCS):
            began = time.perf_counter()
            os.pwrite(file.fileno(), bytes(4096), 0)
            os.fsync(file.fileno())
            times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def _gallery(settings: Settings) -> Iterator[Check]:
    directory, url = settings.gallery.data_dir, settings.gallery.url
    if url is not None:
        yield _tried("gallery", lambda: _in_postgres(settings, url), "Look at TESSERA_GALLERY__URL.")
        return
    if not (directory / DATABASE_NAME).exists():
        yield Check("gallery", State.NOTE, "none yet")
        return

    def look() -> str:
        with opened_vault(settings) as keys, snapshot(directory) as connection:
            require_vault(connection, keys)
            stored, collections = queries.stored_encoder(connection), queries.read_collections(connection)
        return _enrolled(settings, stored, collections)

    yield _tried("gallery", look, "`tessera gallery check` looks closer.")


def _in_postgres(settings: Settings, url: SecretStr) -> str:
    tables = postgres_part("gallery.postgres.queries")
    with _postgres(url) as connection:
        postgres_part("gallery.postgres.gallery").look_for_pgvector(connection)
        if not _has_table(connection, "encoders"):
            return "PostgreSQL answers, and has none yet"
        stored, collections = tables.stored_encoder(connection), tables.read_collections(connection)
    return f"PostgreSQL answers: {_enrolled(settings, stored, collections)}"


@contextmanager
def _postgres(url: SecretStr) -> Iterator[Any]:
    """A connection to a database that can serve as a gallery. Raises GalleryUnavailable."""
    postgres, unavailable = postgres_part("postgres").Postgres, postgres_part("gallery.postgres.gallery").unavailable
    with closing(postgres(url.get_secret_value(), unavailable, connections=1)) as database, database.reading() as found:
        yield found


def _has_table(connection: Any, name: str) -> bool:
    schema = postgres_part("postgres").SCHEMA
    (found,) = connection.execute("SELECT to_regclass(%s)", (f"{schema}.{name}",)).fetchone()
    return found is not None


def _enrolled(settings: Settings, stored: str, collections: Sequence[Collection]) -> str:
    """How many subjects there are. Raises EncoderMismatch if the chosen encoder is not the one of their templates."""
    own = load_encoder_files(settings).weights.sha256
    subjects = sum(found.subjects for found in collections)
    if subjects and stored != own:
        raise EncoderMismatch(
            f"{subjects} subjects were enrolled with encoder {stored[:12]}, and {own[:12]} is chosen: choose theirs "
            "(TESSERA_ENCODING__ENCODER), or another data directory or database."
        )
    return f"{subjects} subjects in {len(collections)} collection(s)"


def _has_keys(settings: Settings) -> bool:
    """Whether any key is accepted; nothing is made. Raises TesseraError."""
    url = settings.gallery.url
    if url is None:
        begun = is_begun(settings.gallery.data_dir)
    else:
        with _postgres(url) as connection:
            begun = _has_table(connection, "installation")
    if not begun:
        return settings.security.admin_key_file is not None and settings.security.admin_key_file.is_file()
    with closing(open_security(settings, create=False)) as store:
        return build_authenticator(settings, store).has_keys


def _keys(settings: Settings) -> Iterator[Check]:
    open_to_all = settings.security.allow_anonymous
    try:
        has_keys = _has_keys(settings)
    except TesseraError as error:
        yield Check("keys", State.MEND, error.message)
        return
    if settings.server.beyond_loopback and open_to_all:
        yield Check(
            "keys", State.NOTE, "whoever reaches it may do everything", "Unset TESSERA_SECURITY__ALLOW_ANONYMOUS."
        )
    elif settings.server.beyond_loopback and not has_keys:
        advice = "Create one with `tessera keys create NAME`: without it, the service does not start on this address."
        yield Check("keys", State.MEND, "none, and other machines reach the service", advice)
    else:
        yield Check("keys", State.OK, "there are some" if has_keys else "none: this machine alone may use the service")
