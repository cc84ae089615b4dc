"""Storage and search of templates.

``protocol`` defines the interface; ``SqliteGallery`` is the gallery that needs nothing but a directory.
"""

from app.gallery.protocol import (
    DEFAULT_COLLECTION,
    CollectionExists,
    CollectionNotFound,
    EncoderMismatch,
    Gallery,
    GalleryError,
    GalleryInUse,
    GalleryUnavailable,
    LastTemplate,
    OnConflict,
    PendingReceipt,
    Receipt,
    ReceiptExists,
    SubjectExists,
    SubjectNotFound,
    TemplateNotFound,
    every_subject,
)
from app.gallery.records import (
    Candidate,
    Collection,
    CollectionSize,
    NewTemplate,
    Subject,
    SubjectVectors,
    Targets,
    Template,
)
from app.gallery.sqlite.gallery import SqliteGallery

__all__ = [
    "DEFAULT_COLLECTION",
    "Candidate",
    "Collection",
    "CollectionExists",
    "CollectionNotFound",
    "CollectionSize",
    "EncoderMismatch",
    "Gallery",
    "GalleryError",
    "GalleryInUse",
    "GalleryUnavailable",
    "LastTemplate",
    "NewTemplate",
    "OnConflict",
    "PendingReceipt",
    "Receipt",
    "ReceiptExists",
    "SqliteGallery",
    "Subject",
    "SubjectExists",
    "SubjectNotFound",
    "SubjectVectors",
    "Targets",
    "Template",
    "TemplateNotFound",
    "every_subject",
]
