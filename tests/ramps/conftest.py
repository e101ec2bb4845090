import pytest

from nsxr.compute import layouts as chunking


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Small exposures in several chunks, like large ones."""
    monkeypatch.setattr(chunking, "CHUNK_BYTES", 4000)
