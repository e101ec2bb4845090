"""Fixtures for the command line."""

import pytest
from click.testing import CliRunner

from nsxr import cli


@pytest.fixture
def run():
    """Return a function that runs nsxr and checks that it neither fails unexpectedly nor shows a traceback."""

    def invoke(*words, status=0):
        result = CliRunner().invoke(cli.main, [str(word) for word in words], prog_name="nsxr")
        assert result.exit_code == status, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert "Traceback" not in result.output
        return result

    return invoke
