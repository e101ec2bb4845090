import numpy as np

from nsxr.compute import layouts
from nsxr.compute.memory import exceeds_memory


def test_only_long_series_are_read_a_second_time(make_exposure, monkeypatch):
    ramps = make_exposure(np.zeros((3, 2, 4, 5), np.float32))
    lazy = ramps.chunk(row=2)
    assert not exceeds_memory(lazy, lazy)
    monkeypatch.setattr(layouts, "KEPT_BYTES", 100)
    assert exceeds_memory(lazy, lazy)
    assert not exceeds_memory(ramps, ramps)
    single = lazy.isel(integration=[0])
    assert not exceeds_memory(single, single)
