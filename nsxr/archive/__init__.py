"""Keep many calibrated exposures in one Zarr hierarchy, an archive. Readers see only complete exposures."""

from nsxr.archive.checker import check_archive
from nsxr.archive.reader import list_exposures, open_archive, open_raw, select_exposures
from nsxr.archive.replay import replay_archive
from nsxr.archive.writer import add_exposure, resume_archive

__all__ = [
    "add_exposure",
    "check_archive",
    "list_exposures",
    "open_archive",
    "open_raw",
    "replay_archive",
    "resume_archive",
    "select_exposures",
]
