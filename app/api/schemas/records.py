"""Schemas of subjects and collections."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from app.api import examples
from app.api.schemas import numbers
from app.api.schemas.common import AttributesModel, Identifier, Metadata, RequestModel
from app.api.schemas.decisions import Rate
from app.decisions import Claim
from app.gallery import Targets
from app.security.trail import Receipt


class SubjectUpdate(RequestModel):
    """The changeable part of a subject."""

    model_config = examples.config(examples.SUBJECT_UPDATE)

    metadata: Metadata = Field(description="replaces the stored metadata")


class TemplateOut(AttributesModel):
    """A stored template."""

    model_config = ConfigDict(from_attributes=True, populate_by_name=True)

    id: str
    created_at: datetime
    embedding_norm: numbers.Norm = Field(
        validation_alias="norm", description="smaller the less the encoder recognised; weak below the limit in /model"
    )
    chip: bool = Field(description="whether its chip is kept (keep_chips of the collection)")


class SubjectOut(AttributesModel):
    """An enrolled person."""

    model_config = examples.config(examples.SUBJECT)

    id: str
    collection: str
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    templates: list[TemplateOut]


class MergeRequest(RequestModel):
    """A subject that is the same person."""

    model_config = examples.config(examples.MERGE_REQUEST)

    duplicate: Identifier = Field(description="id of the subject that is merged into this one and is gone afterwards")
    force: bool = Field(
        default=False, description="merge them even if they are farther apart than the default threshold"
    )


class Merged(BaseModel):
    """The subject that stays, with the templates of both."""

    model_config = examples.config(examples.MERGED)

    subject: SubjectOut
    duplicate: str
    template_ids: list[str] = Field(description="of the templates that were the duplicate's")
    distance: numbers.Distance = Field(description="squared, between the two before they were merged")
    threshold: numbers.Threshold = Field(description="up to which two are taken for possibly the same person")


class SubjectPage(BaseModel):
    """Subjects, ordered by id; repeat with ``next_cursor`` until it is null."""

    model_config = examples.config(examples.SUBJECT_PAGE)

    subjects: list[SubjectOut]
    next_cursor: str | None


class CollectionUpdate(RequestModel):
    """The default targets of a collection, for one left out the service's holds; and whether it keeps chips."""

    model_config = examples.config(examples.COLLECTION_UPDATE)

    target_fmr: Rate | None = Field(default=None, description="false match rate of /verify")
    target_fpir: Rate | None = Field(default=None, description="false positive identification rate of /identify")
    claim: Claim | None = Field(default=None, description="for whom these rates are promised")
    keep_chips: bool | None = Field(
        default=None,
        description="keep the aligned face (chip) of every template enrolled from now on, encrypted, so that another "
        "encoder can embed it; needs encrypted templates. false erases the chips kept so far; left out, it stays as "
        "it is, and a new collection keeps none",
    )

    def targets(self) -> Targets:
        """These targets as the service takes them."""
        return Targets(self.target_fmr, self.target_fpir, self.claim and self.claim.value)


class NewCollection(CollectionUpdate):
    """A collection to create."""

    model_config = examples.config(examples.NEW_COLLECTION)

    id: Identifier


class CollectionOut(BaseModel):
    """An isolated set of subjects."""

    model_config = examples.config(examples.COLLECTION)

    id: str
    created_at: datetime
    subjects: int
    templates: int
    target_fmr: float | None = Field(description="null: the service's")
    target_fpir: float | None = Field(description="null: the service's")
    claim: Claim | None = Field(description="null: the service's")
    keep_chips: bool = Field(description="whether the chips of new templates are kept, encrypted")
    chips: int = Field(description="how many of the templates have a chip")


class CollectionList(BaseModel):
    """All collections, ordered by id."""

    model_config = examples.config(examples.COLLECTION_LIST)

    collections: list[CollectionOut]


class Erased(BaseModel):
    """The number of templates erased."""

    model_config = examples.config(examples.ERASED)

    templates: int
    receipt: str | None = Field(
        description="SEQUENCE:HASH of the record in the audit trail, which proves that it was erased"
    )

    @classmethod
    def of(cls, templates: int, receipt: Receipt | None) -> Self:
        """With the place of the record in the audit trail."""
        return cls(templates=templates, receipt=None if receipt is None else f"{receipt.sequence}:{receipt.hash}")
