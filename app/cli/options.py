"""Shared by commands: settings overridden by options, and one way to refuse."""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from app.cli.host import give_to_owner
from app.cli.output import ExitCode
from app.errors import TesseraError
from app.gallery import BackupError
from app.security.secret import SECRET_NAME
from app.settings import Settings, described, variable_name

DataDirOption = Annotated[
    Path | None, typer.Option(help="folder of the database  [default: the setting, else ~/.local/share/tessera]")
]


def refuse(message: str, code: ExitCode = ExitCode.CANNOT) -> typer.Exit:
    """Prints why a command cannot go on; the caller raises the returned exception."""
    typer.secho(f"tessera: {' '.join(message.split())}", fg="red", err=True)
    return typer.Exit(code=code)


@contextmanager
def refusing() -> Iterator[None]:
    """Turns errors that an operator can fix into one line and ``ExitCode.CANNOT``."""
    try:
        yield
    except ValidationError as error:
        raise refuse(_in_one_line(error)) from error
    except (TesseraError, SettingsError) as error:
        raise refuse(str(error)) from error
    except BrokenPipeError:  # whoever reads the output has enough of it
        raise
    except OSError as error:
        raise refuse(f"{error.filename or 'a file'} cannot be used: {error.strerror or error}") from error


def read_photograph(path: Path, settings: Settings) -> bytes:
    """A file, no further than one byte beyond the size that is refused then. Raises OSError."""
    with path.open("rb") as file:
        return file.read(settings.faces.max_image_bytes + 1)


def _in_one_line(error: ValidationError) -> str:
    return "; ".join(_described(e) for e in error.errors(include_url=False))


def _described(error: ErrorDetails) -> str:
    location, message = [str(part) for part in error["loc"]], error["msg"].removeprefix("Value error, ")
    if not location:
        return message
    if error["type"] == "string_pattern_mismatch":
        section, name = location
        message = f"{error['input']!r} is not of its form: {described(section, name)}"
    return f"{variable_name(*location)}: {message}"


def load_settings(host: str | None = None, port: int | None = None, data_dir: Path | None = None) -> Settings:
    """Settings from the environment, overridden by a command's options, validated together.

    What the command makes in the data directory as root goes to the owner of the directory when it ends.

    Raises pydantic.ValidationError, SettingsError.
    """
    settings = _settings(host, port, data_dir)
    atexit.register(give_to_owner, settings.gallery.data_dir.absolute())
    return settings


def _settings(host: str | None, port: int | None, data_dir: Path | None) -> Settings:
    server = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    gallery = {} if data_dir is None else {"data_dir": data_dir}
    # Values left out here come from the environment.
    return Settings(server=server, gallery=gallery)


def settings_of(directory: Path) -> Settings:
    """As ``load_settings``, for what is kept in ``directory``, even where the environment names a database.

    A secret that lies in the directory is the one that its audit trail is sealed with; the one that the environment
    names is the database's.
    """
    own_secret = {"secret_file": None} if (directory / SECRET_NAME).exists() else {}
    settings = Settings(gallery={"data_dir": directory, "url": None, "read_url": None}, security=own_secret)
    atexit.register(give_to_owner, directory.absolute())
    return settings


def settings_without_data() -> Settings:
    """Settings for a command that reads no data directory: whether there is a default for one does not matter."""
    return _settings(None, None, Path())


def data_directory(settings: Settings) -> Path:
    """The folder of the gallery. Raises BackupError where PostgreSQL keeps it."""
    if settings.gallery.url is not None:
        raise BackupError(
            "TESSERA_GALLERY__URL is set, and this command is for a data directory. What is in PostgreSQL the service "
            "shows and changes (/docs there), and PostgreSQL's own tools back up (docs/scale.md); `tessera gallery "
            "copy` makes a data directory of it."
        )
    return settings.gallery.data_dir
