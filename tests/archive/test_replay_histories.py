"""Histories of products that are calibrated again, possibly by a version of nsxr with more steps."""

import pytest

from nsxr.archive.replay import _unlike_steps

DONE = {"step": "jump", "status": "COMPLETE", "parameters": {"edge_size": 25}, "references": {}}
OTHER = {**DONE, "parameters": {"edge_size": 30}}
NEW = {"step": "ipc", "status": "SKIPPED", "parameters": {}, "references": {}, "reason": "run does not name it"}


@pytest.mark.parametrize(
    ("kept", "made", "expected"),
    [
        ([DONE], [DONE], []),
        ([DONE], [NEW, DONE], []),
        ([DONE], [{**NEW, "status": "COMPLETE"}, DONE], ["ipc"]),
        ([DONE], [OTHER], ["jump"]),
        ([NEW, DONE], [DONE], ["ipc"]),
        ([NEW, DONE], [DONE, NEW], ["their order"]),
    ],
)
def test_a_step_that_is_younger_than_the_archive_is_no_difference(kept, made, expected):
    assert _unlike_steps(kept, made) == expected
