"""``tessera gallery``: maintenance of enrolled data."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TextIO

import typer

from app.api import presenters
from app.api.schemas import AuditReportOut
from app.audits.page import audit_page
from app.audits.report import audit
from app.cli.copying import copy_gallery
from app.cli.options import DataDirOption, data_directory, load_settings, refuse, refusing
from app.cli.output import ExitCode, JsonOption, print_json, print_table, replacing, steps
from app.cli.recording import record, require_trail
from app.cli.reenrolment import reenroll
from app.composition import load_encoder_files, open_copy, opened_vault, postgres_part
from app.encoding import load_weights
from app.gallery import DEFAULT_COLLECTION
from app.gallery.encryption import read_passphrase
from app.gallery.files import new_file
from app.gallery.sqlite import queries
from app.gallery.sqlite.backup import back_up, back_up_keys, restore
from app.gallery.sqlite.database import DATABASE_NAME
from app.gallery.sqlite.inspection import Inspection, accept_loss, inspect_directory
from app.gallery.sqlite.snapshot import snapshot
from app.gallery.sqlite.transfer import OnImportConflict, exporting, import_records
from app.gallery.sqlite.vault import Vault
from app.gallery.transfer import export_reader, export_writer, read_export, write_export

FileArgument = Annotated[Path, typer.Argument(help="the file", metavar="FILE")]
PassphraseOption = Annotated[
    Path | None, typer.Option("--passphrase-file", help="file with the passphrase that encrypts the export")
]


commands = typer.Typer(help="Maintains what is enrolled.", no_args_is_help=True)
AUDIT_STEPS = 1000
"""What the progress of an audit is shown in."""
commands.command("copy")(copy_gallery)


@commands.command("audit")
def audit_gallery(
    collection: Annotated[str, typer.Option(help="which collection")] = DEFAULT_COLLECTION,
    data_dir: DataDirOption = None,
    page: Annotated[Path | None, typer.Option(help="HTML file to write the report to; replaced")] = None,
) -> None:
    """Audits a collection as it is at this moment and prints the report as JSON; the service may be running."""
    opened: AbstractContextManager[TextIO | None] = nullcontext() if page is None else replacing(page)
    with refusing(), opened as file:
        settings = load_settings(data_dir=data_dir)
        files = load_encoder_files(settings)
        with (
            closing(open_copy(settings, files.weights.sha256, files.crowding, files.most_fused)) as gallery,
            steps("audit", AUDIT_STEPS) as step,
        ):
            report = audit(gallery, collection, files.calibration, files.crowding, _in_steps(step))
        print_json(AuditReportOut.model_validate(report))
        if file is not None:
            file.write(audit_page(report))


def _in_steps(step: Callable[[str], None]) -> Callable[[float], None]:
    """Turns a share, 0 to 1, into steps."""
    done = 0

    def show(share: float) -> None:
        nonlocal done
        while done < int(AUDIT_STEPS * share):
            done += 1
            step("")

    return show


@commands.command("info")
def show_info(as_json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Shows what is in the data directory: collections, encoder, size, encryption; the service may be running."""
    with refusing():
        directory = data_directory(load_settings(data_dir=data_dir)).resolve()
        with snapshot(directory) as connection:
            collections = [presenters.collection(found) for found in queries.read_collections(connection)]
            encrypted = connection.execute("SELECT COUNT(*) FROM templates WHERE seal IS NOT NULL").fetchone()[0]
            info: dict[str, object] = {
                "data_dir": str(directory),
                "encoder": queries.stored_encoder(connection),
                "subjects": sum(found.subjects for found in collections),
                "templates": sum(found.templates for found in collections),
                "encrypted_templates": encrypted,
                "schema_version": connection.execute("PRAGMA user_version").fetchone()[0],
                "writes": queries.read_position(connection).sequence,
                "bytes": sum(path.stat().st_size for path in directory.glob(f"{DATABASE_NAME}*")),
            }
    if as_json:
        print_json({**info, "collections": [found.model_dump(mode="json") for found in collections]})
        return
    print_table(("", ""), [(name.replace("_", " "), value) for name, value in info.items()])
    columns = ("id", "subjects", "templates", "target_fmr", "target_fpir", "claim", "created_at")
    typer.echo()
    print_table(columns, [[getattr(found, column) for column in columns] for found in collections])


@commands.command("backup")
def back_up_gallery(file: FileArgument, data_dir: DataDirOption = None) -> None:
    """Copies the gallery to a new file and verifies the copy; the service may be running."""
    with refusing():
        settings = load_settings(data_dir=data_dir)
        data_directory(settings)
        require_trail(settings)
        with opened_vault(settings) as keys:
            found = back_up(settings.gallery.data_dir, file, keys)
        record(settings, "backup", templates=found.templates)
    typer.echo(f"{file}: {found.collections} collections, {found.subjects} subjects, {found.templates} templates")


@commands.command("backup-keys")
def back_up_template_keys(file: FileArgument, data_dir: DataDirOption = None) -> None:
    """Copies the keys of encrypted templates and chips to a new file; the service may be running.

    Keep the latest copy only, and not beside backups of the gallery: what is erased comes back with an older one.
    """
    with refusing():
        settings = load_settings(data_dir=data_dir)
        data_directory(settings)
        require_trail(settings)
        with opened_vault(settings) as keys:
            count = back_up_keys(_existing(keys), file)
        record(settings, "backup_keys", keys=count)
    typer.echo(f"{file}: {count} keys of templates and chips")


def _existing(keys: Vault | None) -> Vault:
    if keys is None:
        raise refuse("templates are not encrypted: no master key is set, or there are no keys of templates yet")
    return keys


@commands.command("restore")
def restore_gallery(
    file: FileArgument,
    data_dir: DataDirOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="replace the gallery that is there; its files are kept aside")
    ] = False,
) -> None:
    """Puts a backup in the data directory after verifying it; the service must not be running."""
    with refusing():
        settings = load_settings(data_dir=data_dir)
        data_directory(settings)
        require_trail(settings)
        directory = settings.gallery.data_dir
        with opened_vault(settings, create=True) as keys:
            done = restore(file, directory, replace=replace, now=datetime.now(UTC), keys=keys)
        record(settings, "restore", replaced=done.aside is not None, left_out=done.left_out)
    typer.echo(f"{file} is restored in {directory}")
    if done.left_out:
        typer.echo(f"{done.left_out} templates are left out: their keys are gone, as after an erasure")
    if done.aside is not None:
        typer.echo(f"the files from before are in {done.aside}; delete them when they are not needed any more")


@commands.command("export")
def export_gallery(
    file: FileArgument, data_dir: DataDirOption = None, passphrase_file: PassphraseOption = None
) -> None:
    """Writes everyone who is enrolled as lines of JSON, gzipped if the name ends in .gz; the service may be running."""
    with refusing():
        settings = load_settings(data_dir=data_dir)
        data_directory(settings)
        require_trail(settings)
        passphrase = None if passphrase_file is None else read_passphrase(passphrase_file)
        with (
            opened_vault(settings) as keys,
            exporting(settings.gallery.data_dir, keys) as (encoder, records),
            new_file(file) as partial,
            export_writer(partial, passphrase, compressed=file.suffix == ".gz") as stream,
        ):
            found = write_export(stream, encoder, records)
        record(settings, "export", templates=found.templates, encrypted=passphrase is not None)
    typer.echo(f"{file}: {found.collections} collections, {found.subjects} subjects, {found.templates} templates")


@commands.command("import")
def import_gallery(
    file: FileArgument,
    data_dir: DataDirOption = None,
    passphrase_file: PassphraseOption = None,
    on_conflict: Annotated[
        OnImportConflict, typer.Option(help="what to do with subjects that are there already")
    ] = OnImportConflict.REJECT,
) -> None:
    """Stores what an export holds, all of it or nothing; the service must not be running."""
    with refusing():
        settings = load_settings(data_dir=data_dir)
        data_directory(settings)
        require_trail(settings)
        encoder = load_weights(settings.encoding.directory).sha256
        passphrase = None if passphrase_file is None else read_passphrase(passphrase_file)
        with export_reader(file, passphrase) as stream, opened_vault(settings, create=True) as keys:
            records = read_export(stream, encoder)
            changed = import_records(settings.gallery.data_dir, encoder, records, on_conflict, datetime.now(UTC), keys)
        record(settings, "import", subjects=changed, on_conflict=str(on_conflict))
    typer.echo(f"{changed} subjects imported into {settings.gallery.data_dir}")


@commands.command("check")
def check_gallery(
    data_dir: DataDirOption = None,
    accept_loss_: Annotated[
        bool,
        typer.Option("--accept-loss", help="serve what is there, although acknowledged writes are missing from it"),
    ] = False,
) -> None:
    """Looks for damage and loss and says what to do; exit code 1 if there is any. The service may be running."""
    with refusing():
        settings = load_settings(data_dir=data_dir)
        if settings.gallery.url is not None and not accept_loss_:
            url = settings.gallery.url.get_secret_value()
            _show("PostgreSQL", postgres_part("gallery.postgres.transfer").inspect_database(url))
            return
        directory = data_directory(settings)
        if accept_loss_:
            require_trail(settings)
            accept_loss(directory)
            record(settings, "accept_loss")
            typer.echo(f"what is in {directory} is accepted as it is")
            return
        with opened_vault(settings) as keys:
            found = inspect_directory(directory, keys)
    _show(str(directory), found)


def _show(place: str, found: Inspection) -> None:
    typer.echo(f"{place}: {found.collections} collections, {found.subjects} subjects, {found.templates} templates")
    for problem in found.problems:
        typer.secho(f"- {problem}", fg="red")
    if found.problems:
        raise typer.Exit(ExitCode.NO)


@commands.command("rotate-key")
def rotate_key(data_dir: DataDirOption = None) -> None:
    """Wraps the keys of all templates and chips anew, by the first key of the master key file.

    Put the new master key before the old one in the file, restart the service if it reads a copy of the file (such as
    a credential of systemd or a secret of a container), run this while the service runs, then remove the old one.
    """
    with refusing():
        settings = load_settings(data_dir=data_dir)
        data_directory(settings)
        require_trail(settings)
        with opened_vault(settings) as vault:
            keys = _existing(vault)
            count = keys.rotate()
            record(settings, "rotate_key", keys=count)
            typer.echo(
                f"{count} keys of templates and chips are wrapped by a new root key under the current master key"
            )
            keys.require_empty_log()


commands.command("reenroll")(reenroll)
