from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from app.gallery import DEFAULT_COLLECTION, EncoderMismatch, SqliteGallery
from benchmarks.galleries import fill_gallery

DIGEST = "sha256:0123"


def test_a_filled_gallery_is_whole(tmp_path: Path) -> None:
    fill_gallery(tmp_path, DIGEST, 25, each=10)
    with closing(SqliteGallery(tmp_path, encoder_digest=DIGEST)) as gallery:
        gallery.check()
        found = gallery.collections()[0]
        subjects = gallery.subjects(DEFAULT_COLLECTION, after=None, limit=10)
        first = gallery.subject_vectors(DEFAULT_COLLECTION, after=None, limit=1)[0]
        nearest = gallery.search(DEFAULT_COLLECTION, first.embeddings[0], 1)[0]
    assert (found.subjects, found.templates) == (3, 25)
    assert sorted(len(subject.templates) for subject in subjects) == [5, 10, 10]
    assert nearest.subject_id == first.subject_id


def test_the_templates_are_of_the_encoder(tmp_path: Path) -> None:
    fill_gallery(tmp_path, DIGEST, 3, each=1)
    with pytest.raises(EncoderMismatch):
        SqliteGallery(tmp_path, encoder_digest="sha256:4567")
