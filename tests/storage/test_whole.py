import pytest

from nsxr.errors import OutputExistsError
from nsxr.storage.whole import all_or_nothing, make_file, put_file, refuse_existing, replacing


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_put_again_and_made_once(tmp_path):
    path = tmp_path / "new" / "x"
    put_file(path, b"one")
    put_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert not make_file(path, b"three")
    assert make_file(path.with_name("y"), b"four")
    assert [one.read_bytes() for one in (path, path.with_name("y"))] == [b"two", b"four"]
    assert names(tmp_path / "new") == ["x", "y"]


@pytest.mark.parametrize("older", [None, "older"])
def test_a_failure_keeps_the_older_file(tmp_path, older):
    path = tmp_path / ("x" * 240)  # nearly as long as file systems allow
    if older:
        path.write_text(older)

    def fail():
        with replacing(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [one.read_text() for one in tmp_path.iterdir()] == ([older] if older else [])
    with replacing(path) as partial:
        partial.write_text("whole")
    assert path.read_text() == "whole"
    assert len(names(tmp_path)) == 1


def test_several_files_appear_together_after_they_are_finished(tmp_path):
    paths = [tmp_path / "x", tmp_path / "y"]
    paths[0].write_text("older")
    with pytest.raises(OutputExistsError, match="x already there"):
        refuse_existing(paths)

    def finish(partial):
        assert paths[0].read_text() == "older"
        partial.write_text(partial.read_text() + " and finished")

    def write(overwrite):
        with all_or_nothing(paths, overwrite, finish) as partials:
            for partial in partials:
                partial.write_text("new")

    with pytest.raises(OutputExistsError, match="x already there"):
        write(overwrite=False)
    assert names(tmp_path) == ["x"]
    write(overwrite=True)
    assert [path.read_text() for path in paths] == ["new and finished"] * 2
    assert names(tmp_path) == ["x", "y"]
