"""``tessera audit``: checks and reads the audit trail; the service may run meanwhile."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Annotated

import typer

from app.cli.options import DataDirOption, load_settings, refuse, refusing
from app.cli.output import ExitCode
from app.composition import open_security
from app.gallery import DEFAULT_COLLECTION
from app.security.trail import AuditTrail, Receipt

commands = typer.Typer(help="The audit trail: who did what.", no_args_is_help=True)

EMPTY = "0:"
"""The head of a trail without records: every trail goes on from it."""

ReceiptOption = Annotated[
    str | None, typer.Option(help="SEQUENCE:HASH, from an erasure or from `tessera audit head`, that must be in it")
]


@commands.command("verify")
def verify_trail(receipt: ReceiptOption = None, data_dir: DataDirOption = None) -> None:
    """Finds records that were changed or removed; exit code 1 if there are any."""
    expected = None if receipt is None or receipt == EMPTY else _receipt(receipt)
    with refusing(), closing(open_security(load_settings(data_dir=data_dir), create=False, any_secret=True)) as store:
        trail = AuditTrail(store)
        wrong, head = trail.verify(expected), trail.head()
    if wrong:
        raise refuse("; ".join(wrong), ExitCode.NO)
    typer.echo(f"{head.sequence if head else 0} records, all as they were written")


@commands.command("head")
def show_head(data_dir: DataDirOption = None) -> None:
    """Prints the last record as SEQUENCE:HASH; kept elsewhere, it proves later that nothing before it was changed."""
    with refusing(), closing(open_security(load_settings(data_dir=data_dir), create=False, any_secret=True)) as store:
        head = AuditTrail(store).head()
    typer.echo(EMPTY if head is None else f"{head.sequence}:{head.hash}")


@commands.command("show")
def show_trail(
    subject: Annotated[str | None, typer.Option(help="only records of this subject")] = None,
    collection: Annotated[
        str | None, typer.Option(help=f"the subject's collection  [default: {DEFAULT_COLLECTION}]")
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Prints the records, oldest first, one JSON object a line."""
    if collection is not None and subject is None:
        raise typer.BadParameter("--collection goes with --subject")
    with refusing():
        settings = load_settings(data_dir=data_dir)
        with closing(open_security(settings, create=False, any_secret=True)) as store:
            trail = AuditTrail(store, plain_ids=settings.security.audit_plain_ids)
            name = None if subject is None else trail.name_of(collection or DEFAULT_COLLECTION, subject)
            for record in trail.records(subject=name):
                line = {"sequence": record.sequence, "at": record.at, **record.content, "hash": record.hash}
                typer.echo(json.dumps(line))


def _receipt(text: str) -> Receipt:
    sequence, _, digest = text.partition(":")
    if not sequence.isdecimal() or len(digest) != 64:  # hexadecimal SHA-256
        raise typer.BadParameter("a receipt is SEQUENCE:HASH")
    return Receipt(int(sequence), digest)
