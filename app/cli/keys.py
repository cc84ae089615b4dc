"""``tessera keys``: creates, lists and revokes API keys; the service may run meanwhile and follows within a second."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import DataDirOption, load_settings, refuse, refusing
from app.cli.output import JsonOption, print_json, print_table
from app.composition import open_security
from app.security.keys import ApiKey, KeyStore, Scope
from app.security.rates import RATE_PATTERN
from app.security.store import SecurityStore
from app.security.trail import AuditTrail, Entry

commands = typer.Typer(help="API keys: who may do what.", no_args_is_help=True)

DURATION = re.compile(r"(\d{1,5})([hd])")
COLLECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:+~-]{0,127}")
DEFAULT_SCOPES = ",".join(scope for scope in Scope if scope is not Scope.ADMIN)

KeyId = Annotated[str, typer.Argument(help="the id, as `tessera keys list` shows it", metavar="KEY")]


@contextmanager
def _store(data_dir: Path | None, *, create: bool = False) -> Iterator[tuple[SecurityStore, AuditTrail]]:
    with refusing():
        settings = load_settings(data_dir=data_dir)
        store = open_security(settings, create=create)
        try:
            yield store, AuditTrail(store, plain_ids=settings.security.audit_plain_ids)
        finally:
            store.close()


@commands.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="whose key it is, for the list", metavar="NAME")],
    scopes: Annotated[str, typer.Option(help=f"separated by commas: {', '.join(Scope)}")] = DEFAULT_SCOPES,
    collections: Annotated[
        str | None, typer.Option(help="separated by commas; all of them, also later ones, if left out")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="after 12h or 90d; never if left out")] = None,
    rate: Annotated[str | None, typer.Option(help="most requests, such as 600/minute")] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Prints a new key; it is shown this once."""
    chosen = _scopes(scopes)
    named = _collections(collections)
    if rate is not None and not re.fullmatch(RATE_PATTERN, rate):
        raise typer.BadParameter("a rate is a number a second, minute, hour or day, such as 600/minute")
    end = None if expires is None else datetime.now(UTC) + _duration(expires)
    with _store(data_dir, create=True) as (store, trail):
        key, text = KeyStore(store).create(name, chosen, collections=named, expires_at=end, rate=rate)
        details = {"key": key.id, "scopes": sorted(chosen), "collections": named and sorted(named)}
        trail.record(Entry("command", "create_key", "done", details=details)).result()
    typer.echo(text)
    typer.echo(f"Key {key.id} of {name}: keep it now, it cannot be shown again.", err=True)


@commands.command("list")
def list_keys(as_json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Shows all keys, without their secrets."""
    with _store(data_dir) as (store, _):
        keys = KeyStore(store).all()
    if as_json:
        print_json([_shown(key) for key in keys])
        return
    print_table(
        ("id", "name", "scopes", "collections", "rate", "created", "state"),
        [
            (
                key.id,
                key.name,
                ", ".join(sorted(key.scopes)),
                "all" if key.collections is None else ", ".join(sorted(key.collections)),
                key.rate,
                f"{key.created_at:%F}",
                _state(key),
            )
            for key in keys
        ],
    )


def _shown(key: ApiKey) -> dict[str, object]:
    times = {name: getattr(key, name) for name in ("created_at", "expires_at", "revoked_at")}
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "collections": None if key.collections is None else sorted(key.collections),
        "rate": key.rate,
        **{name: None if time is None else time.isoformat() for name, time in times.items()},
        "valid": key.valid(datetime.now(UTC)),
    }


@commands.command("revoke")
def revoke_key(key_id: KeyId, data_dir: DataDirOption = None) -> None:
    """Ends a key at once."""
    with _store(data_dir) as (store, trail):
        _revoke(store, key_id, timedelta())
        trail.record(Entry("command", "revoke_key", "done", details={"key": key_id})).result()
    typer.echo(f"Key {key_id} is revoked.", err=True)


@commands.command("rotate")
def rotate_key(
    key_id: KeyId,
    overlap: Annotated[str, typer.Option(help="how long the old key stays valid: 0h, 24h, 7d")] = "24h",
    expires: Annotated[
        str | None,
        typer.Option(help="the new key, after 12h or 90d; as long as the old one was made for if left out"),
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Prints a new key like the old one, which ends after a while."""
    after, given = _duration(overlap), None if expires is None else _duration(expires)
    with _store(data_dir) as (store, trail):
        keys = KeyStore(store)
        old = next((key for key in keys.all() if key.id == key_id), None)
        if old is None or not old.valid(datetime.now(UTC)):
            raise refuse(f"there is no valid key {key_id}; `tessera keys list` shows them, `create` makes a new one")
        lasts = old.expires_at - old.created_at if given is None and old.expires_at is not None else given
        end = None if lasts is None else datetime.now(UTC) + lasts
        key, text = keys.create(old.name, old.scopes, collections=old.collections, expires_at=end, rate=old.rate)
        _revoke(store, key_id, after)
        trail.record(Entry("command", "rotate_key", "done", details={"key": key_id, "new": key.id})).result()
    typer.echo(text)
    ends = "never ends" if end is None else f"ends {end:%F}"
    typer.echo(f"Key {key.id} of {key.name}, which {ends}, replaces {key_id}, which ends in {overlap}.", err=True)


def _revoke(store: SecurityStore, key_id: str, after: timedelta) -> ApiKey:
    try:
        return KeyStore(store).revoke(key_id, after=after)
    except KeyError as error:
        raise refuse(f"there is no key {key_id}; `tessera keys list` shows them") from error


def _scopes(text: str) -> set[Scope]:
    names = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := names - set(Scope) or not names:
        raise typer.BadParameter(f"scopes are {', '.join(Scope)}; not {unknown if unknown is not True else 'none'}")
    return {Scope(name) for name in names}


def _collections(text: str | None) -> set[str] | None:
    if text is None:
        return None
    names = {name.strip() for name in text.split(",") if name.strip()}
    if not names or not all(COLLECTION.fullmatch(name) for name in names):
        raise typer.BadParameter("collections are ids of letters, digits and . _ @ : + ~ -, separated by commas")
    return names


def _duration(text: str) -> timedelta:
    found = DURATION.fullmatch(text)
    if found is None:
        raise typer.BadParameter("a time is hours or days, such as 12h or 90d")
    return timedelta(hours=int(found[1])) if found[2] == "h" else timedelta(days=int(found[1]))


def _state(key: ApiKey) -> str:
    now = datetime.now(UTC)
    for end, word in ((key.revoked_at, "revoked"), (key.expires_at, "expired")):
        if end is not None and end <= now:
            return f"{word} {end:%F}"
    ends = [end for end in (key.revoked_at, key.expires_at) if end is not None]
    return f"until {min(ends):%F %H:%M}" if ends else "valid"
