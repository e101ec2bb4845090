"""Options of the command line that make up a recipe, beside one from a file."""

import click
import pytest
from click.testing import CliRunner

from nsxr.cli.recipes import takes_recipe
from nsxr.pipelines.recipe import Recipe

ON = {"clean_flicker_noise": {"fit_method": "median", "n_sigma": 4.0}}
WITH_FIVE = {"clean_flicker_noise": {"fit_method": "median", "n_sigma": 5.0}}


@pytest.fixture
def recipe_of():
    """Return a function that gives the recipe that a command gets."""

    def run(*words):
        found = []

        @click.command()
        @takes_recipe
        def command(recipe):
            found.append(recipe)

        result = CliRunner().invoke(command, list(words), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return found[0]

    return run


def test_options_make_a_recipe(recipe_of):
    words = ["--references", "refs", "--reference", "gain=g.fits", "--set", "jump.edge_size=3"]
    recipe = recipe_of(*words, "--skip", "dark_current", "--run", "picture_frame")
    expected = Recipe("refs", {"gain": "g.fits"}, {"jump": {"edge_size": 3}}, ("dark_current",), run=("picture_frame",))
    assert recipe == expected


@pytest.mark.parametrize(
    ("words", "parameters", "run", "skip"),
    [
        ([], ON, (), ()),
        (["--set", "clean_flicker_noise.fit_method=off"], {}, (), ("clean_flicker_noise",)),
        (["--skip", "clean_flicker_noise"], ON, (), ("clean_flicker_noise",)),
        (["--set", "picture_frame.correct=true"], ON, ("picture_frame",), ()),
        (["--run", "picture_frame"], ON, ("picture_frame",), ()),
        (["--set", "clean_flicker_noise.n_sigma=5"], WITH_FIVE, (), ()),
    ],
)
def test_options_win_over_a_recipe_from_a_file(recipe_of, tmp_path, words, parameters, run, skip):
    path = tmp_path / "recipe.toml"
    path.write_text(Recipe("refs", parameters=ON).as_toml())
    recipe = recipe_of("--recipe", str(path), *words)
    assert (recipe.references, recipe.parameters, recipe.run, recipe.skip) == ("refs", parameters, run, skip)


def test_a_recipe_that_an_older_version_wrote_is_switched_on_as_before(recipe_of, tmp_path):
    path = tmp_path / "recipe.toml"
    switches = '[parameters.picture_frame]\ncorrect = false\nmethod = "fit"\n[parameters.clean_flicker_noise]\n'
    path.write_text(f'references = "refs"\nskip = []\n{switches}fit_method = "off"\nn_sigma = 3.0\n')
    assert recipe_of("--recipe", str(path)) == Recipe("refs", skip=("clean_flicker_noise",))
    recipe = recipe_of("--recipe", str(path), "--set", "clean_flicker_noise.fit_method=optimal")
    assert (recipe.skip, recipe.parameters) == ((), {"clean_flicker_noise": {"fit_method": "optimal"}})
    assert recipe_of("--recipe", str(path), "--run", "clean_flicker_noise").skip == ()


@pytest.mark.parametrize(
    ("base", "words", "expected"),
    [
        (Recipe(optics="there", shutters="there/m.fits"), [], ("there", "there/m.fits")),
        (Recipe(optics="there", shutters="there/m.fits"), ["--references", "refs"], (None, None)),
        (Recipe(optics="there"), ["--references", "refs", "--shutters", "m.fits"], ("refs", "m.fits")),
        (Recipe(optics="none"), ["--references", "refs"], ("none", None)),
        (Recipe(optics="crds"), ["--references", "crds"], ("crds", None)),
        (Recipe("mine", optics="there"), ["--references", "refs"], ("there", None)),
        (Recipe("mine"), ["--optics", "none"], ("none", None)),
    ],
)
def test_other_references_come_with_their_own_optics(recipe_of, tmp_path, base, words, expected):
    path = tmp_path / "recipe.toml"
    path.write_text(base.as_toml())
    recipe = recipe_of("--recipe", str(path), *words)
    assert (recipe.optics, recipe.shutters) == expected
