"""``tessera subjects``: who is enrolled."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Annotated

import typer

from app.api import presenters, schemas
from app.api.routes.subjects import decode_cursor, encode_cursor
from app.cli.options import DataDirOption, data_directory, load_settings, refuse, refusing
from app.cli.output import ExitCode, JsonOption, print_json, print_table
from app.cli.recording import recorder
from app.composition import load_encoder_files, open_beside
from app.gallery import DEFAULT_COLLECTION
from app.gallery.sqlite import queries
from app.gallery.sqlite.snapshot import snapshot
from app.recognition.results import Merger
from app.recognition.subjects import SubjectService
from app.security.lockout import Lockout
from app.security.trail import DUPLICATE

commands = typer.Typer(help="Who is enrolled.", no_args_is_help=True)

SubjectArgument = Annotated[str, typer.Argument(help="the subject's id", metavar="SUBJECT")]
CollectionOption = Annotated[str, typer.Option(help="the subject's collection")]


@commands.command("list")
def list_subjects(
    collection: CollectionOption = DEFAULT_COLLECTION,
    limit: Annotated[int, typer.Option(help="most subjects to show", min=1, max=1000)] = 100,
    cursor: Annotated[str | None, typer.Option(help="where to go on: what the page before said")] = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Shows a page of subjects by id; the service may be running."""
    with refusing():
        after = "" if cursor is None else decode_cursor(cursor)
        with snapshot(data_directory(load_settings(data_dir=data_dir))) as connection:
            found = queries.read_subjects(connection, collection, after, limit + 1)
    page = [schemas.SubjectOut.model_validate(subject) for subject in found[:limit]]
    more = encode_cursor(page[-1].id) if len(found) > limit else None
    if as_json:
        print_json(schemas.SubjectPage(subjects=page, next_cursor=more))
        return
    print_table(
        ("id", "templates", "enrolled", "changed", "metadata"),
        [(s.id, len(s.templates), f"{s.created_at:%F %T}", f"{s.updated_at:%F %T}", s.metadata or "") for s in page],
    )
    if more is not None:
        typer.echo(f"there are more: --cursor {more}")


@commands.command("show")
def show_subject(
    subject_id: SubjectArgument,
    collection: CollectionOption = DEFAULT_COLLECTION,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Shows metadata, times and templates of a subject; the service may be running."""
    with refusing(), snapshot(data_directory(load_settings(data_dir=data_dir))) as connection:
        found = schemas.SubjectOut.model_validate(queries.read_subject(connection, collection, subject_id))
    if as_json:
        print_json(found)
        return
    print_table(("", ""), [(name.replace("_", " "), value) for name, value in found if name != "templates"])
    typer.echo()
    print_table(("template", "enrolled"), [(t.id, f"{t.created_at:%F %T}") for t in found.templates])


@commands.command("delete")
def delete_subject(
    subject_id: SubjectArgument,
    collection: CollectionOption = DEFAULT_COLLECTION,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Erases a subject with all templates; the service must not be running (it has DELETE /subjects/SUBJECT)."""
    with refusing():
        settings = load_settings(data_dir=data_dir)
        with snapshot(data_directory(settings)) as connection:
            templates = len(queries.read_subject(connection, collection, subject_id).templates)
        if not yes:
            _confirm(f"Erase {subject_id} in {collection} with {templates} templates?")
        files = load_encoder_files(settings)
        with (
            closing(open_beside(settings, files.weights.sha256, files.crowding, files.most_fused)) as gallery,
            recorder(settings) as trail,
        ):
            # Before it begins, too: whatever happens, the trail names it.
            trail.record("delete_subject", "started", collection=collection, subject=subject_id)
            erased = gallery.delete_subject(collection, subject_id)
            Lockout(trail.store).forget(collection, subject_id)
            receipt = trail.record(
                "delete_subject", collection=collection, subject=subject_id, details={"templates": erased}
            )
    answer = schemas.Erased.of(erased, receipt)
    if as_json:
        print_json(answer)
    else:
        typer.echo(f"{erased} templates of {subject_id} erased; receipt {answer.receipt}")


@commands.command("merge")
def merge_subjects(
    subject_id: SubjectArgument,
    duplicate: Annotated[
        str, typer.Argument(help="the subject that is the same person; it is gone afterwards", metavar="DUPLICATE")
    ],
    collection: CollectionOption = DEFAULT_COLLECTION,
    force: Annotated[
        bool, typer.Option("--force", help="even if they are farther apart than the default threshold")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Gives SUBJECT all templates of DUPLICATE; the service must not be running (POST /subjects/SUBJECT/merge)."""
    if subject_id == duplicate:
        raise typer.BadParameter("these are the same subject; name two")
    with refusing():
        settings = load_settings(data_dir=data_dir)
        with snapshot(data_directory(settings)) as connection:
            queries.read_subject(connection, collection, subject_id)
            templates = len(queries.read_subject(connection, collection, duplicate).templates)
        if not yes:
            _confirm(
                f"Give {subject_id} in {collection} the {templates} templates of {duplicate}, who is gone then?",
                "merge",
            )
        files = load_encoder_files(settings)
        with (
            closing(open_beside(settings, files.weights.sha256, files.crowding, files.most_fused)) as gallery,
            recorder(settings) as trail,
        ):
            details: dict[str, object] = {DUPLICATE: trail.name_of(collection, duplicate)}
            # Before it begins, too: whatever happens, the trail names it.
            trail.record("merge_subjects", "started", collection=collection, subject=subject_id, details=details)
            service = SubjectService(gallery, files.calibration, files.crowding)
            merger = service.merge(collection, subject_id, duplicate, force=force)
            assert isinstance(merger, Merger)
            Lockout(trail.store).forget(collection, duplicate)
            details |= {"templates": len(merger.template_ids), "force": force}
            trail.record("merge_subjects", collection=collection, subject=subject_id, details=details)
    if as_json:
        print_json(presenters.merged(merger, duplicate))
    else:
        typer.echo(
            f"{subject_id} has {len(merger.subject.templates)} templates, {len(merger.template_ids)} of them of "
            f"{duplicate}, who was {merger.distance:.3f} away and is gone"
        )


def _confirm(question: str, action: str = "erase") -> None:
    if not sys.stdin.isatty():
        raise refuse(f"nobody is there to be asked whether to {action}; --yes says so")
    try:
        agreed = typer.confirm(question)
    except typer.Abort as stopped:
        # What asks makes this of Ctrl-C, and the command would end as if the answer had been no.
        typer.echo(err=True)
        raise refuse("stopped; nothing was changed", ExitCode.STOPPED) from stopped
    if not agreed:
        raise refuse("nothing was changed", ExitCode.NO)
