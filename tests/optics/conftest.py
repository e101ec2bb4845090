import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real products and references."""
    if "NSXR_REAL_DATA" not in os.environ:
        pytest.skip("NSXR_REAL_DATA is not set: no real products to read")
    return Path(os.environ["NSXR_REAL_DATA"])
