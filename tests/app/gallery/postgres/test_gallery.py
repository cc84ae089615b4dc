from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from app.gallery import Gallery
from app.gallery.postgres.gallery import PostgresGallery
from benchmarks.postgres_server import PostgresServer
from tests.app.gallery.contract import Clock, GalleryContract, MadeUpCrowding, OpenedWith
from tests.app.gallery.sqlite.support import DIGEST
from tests.app.postgres import emptied

pytestmark = pytest.mark.slow


class TestPostgresGallery(GalleryContract):
    @pytest.fixture
    def gallery(self, url: str, clock: Clock) -> Iterator[Gallery]:
        with closing(PostgresGallery(url, encoder_digest=DIGEST, clock=clock)) as gallery:
            yield gallery

    @pytest.fixture
    def crowded(self, postgres: PostgresServer, clock: Clock, crowding: MadeUpCrowding) -> Iterator[Gallery]:
        with (
            emptied(postgres, "second") as url,
            closing(PostgresGallery(url, encoder_digest=DIGEST, clock=clock, crowding=crowding)) as gallery,
        ):
            yield gallery
            gallery.check()

    @pytest.fixture
    def opened_with(self, postgres: PostgresServer, crowding: MadeUpCrowding) -> Iterator[OpenedWith]:
        with emptied(postgres, "second") as url:
            yield lambda most: closing(PostgresGallery(url, encoder_digest=DIGEST, crowding=crowding, most_fused=most))
