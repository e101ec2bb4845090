"""Define ``nsxr steps`` and ``nsxr parameters``: list the steps and their parameters, as the functions declare them."""

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import click

from nsxr.cli.extraction import extract
from nsxr.cli.options import reports_errors
from nsxr.cli.recipes import complete_steps
from nsxr.model.declarations import Reference, Step, Takes
from nsxr.model.parameters import Parameter
from nsxr.model.steps import REFERENCES
from nsxr.pipelines.detector1 import DETECTOR1
from nsxr.pipelines.spec2 import SPEC2

__all__ = ["parameters", "steps"]

_PIPELINES = (DETECTOR1, SPEC2)

_INTRODUCTION = """# Parameters

This page lists the steps of stages 1 and 2 in their order, with all of their parameters. `nsxr parameters` prints the
same list in a terminal, and `nsxr parameters jump` prints the parameters of one step. `nsxr steps` lists the steps with
their references and keywords. Wrong names and values raise an error before anything is computed.

On the command line, each parameter has its own `--set`; in Python, a step takes a mapping; in a recipe, a table:

```console
nsxr detector1 jw01234001001_03101_00001_nrs1_uncal.fits --references crds --set jump.edge_size=30
nsxr detector1 jw01234001001_03101_00001_nrs1_uncal.fits --references crds --run picture_frame
nsxr detector1 jw01234001001_03101_00001_nrs1_uncal.fits --recipe my_recipe.toml
```

```py
nsxr.detector1(exposure, references, run=["picture_frame"], skip=["dark_current"], jump={"edge_size": 30})
```

```toml
references = "crds"
skip = ["dark_current"]
run = ["picture_frame"]

[parameters.jump]
edge_size = 30
```

A step that is off by default runs if it is named with `--run` (`run` in Python and in recipes), or if any of its
parameters is given. A step that is named with `--skip` does not run.

Beside the products, `nsxr detector1` writes `ROOT_recipe.toml`: all parameters of the steps, defaults included, the
steps that were skipped, and the references that were chosen. `--recipe` with that file repeats the calibration.
"""

_EXTRACT = """
## Options of `nsxr extract`

| option | default | meaning |
| --- | --- | --- |
"""


@click.command()
@reports_errors
def steps() -> None:
    """List the steps in their order, with keywords and references."""
    for pipeline in _PIPELINES:
        width = max(map(len, pipeline.steps)) + 2
        click.echo(f"{pipeline.name}, to {' and '.join(pipeline.products)}")
        for name, step in pipeline.steps.items():
            references = ", ".join(map(_reference, step.references)) or "no references"
            click.echo(f"  {name:<{width}}{'off' if step.off else 'on':<5}{step.keyword:<10}{references}")


def _reference(reference: Reference) -> str:
    """Return a reference type, its keyword, and when it is used."""
    named = REFERENCES[reference.kind]
    notes = [named.keyword] if named.keyword else []
    notes += [f"{named.when.words} only"] if named.when is not None else []
    if isinstance(reference, Takes):
        notes += [f"if {reference.of} is on" if reference.of else "if given"]
    return f"{reference.kind} ({', '.join(notes)})" if notes else reference.kind


@click.command()
@click.argument("step", required=False, shell_complete=complete_steps)
@click.option("--markdown", is_flag=True, help="As the page of the documentation.")
@reports_errors
def parameters(step: str | None, markdown: bool) -> None:
    """List the parameters of the steps, or of one STEP, with types, units and defaults."""
    known = {name: one for pipeline in _PIPELINES for name, one in pipeline.steps.items()}
    if step is not None and step not in known:
        DETECTOR1.settings({step: {}})  # raises an error with the most similar name
    shown = [one for name, one in known.items() if step in (None, name)]
    if not markdown:
        click.echo("\n\n".join(_in_terminal(one, shutil.get_terminal_size().columns) for one in shown))
        return
    page = "\n".join(map(_in_markdown, shown))
    click.echo(f"{_INTRODUCTION}\n{page}{_EXTRACT}{_options()}" if step is None else page, nl=step is not None)


def _in_terminal(step: Step, width: int) -> str:
    """Return the parameters of a step as lines of limited width."""
    width = max(width, 40)

    def wrapped(text: str, indent: str) -> str:
        return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False)

    lines = [wrapped(f"{step.name}: {_plain(step.summary, '')}{_off(step)}", "")]
    for one in step.parameters.values():
        unit = f" [{one.unit}]" if one.unit else ""
        limits = f": {one.limits}" if one.choices else f", {one.limits}" if one.limits else ""
        lines += ["", wrapped(f"{one.name} = {_default(one)}   {one.type_name}{unit}{limits}", "  ")]
        lines.append(wrapped(_plain(one.meaning, ""), "      "))
    return "\n".join(lines if step.parameters else [*lines, "", "  no parameters"])


def _in_markdown(step: Step) -> str:
    """Return the parameters of a step as a section of a page."""
    lines = [f"## {step.name}", "", _plain(step.summary, "`") + _off(step), ""]
    if step.parameters:
        lines += ["| parameter | type | unit | default | range | meaning |", "| --- | --- | --- | --- | --- | --- |"]
    for one in step.parameters.values():
        cells = (f"`{one.name}`", one.type_name, one.unit, f"`{_default(one)}`", one.limits, _plain(one.meaning, "`"))
        lines.append(_row(cells))
    return "\n".join(lines if step.parameters else [*lines, "No parameters.", ""]).rstrip() + "\n"


def _off(step: Step) -> str:
    """Return a sentence on a step that is off by default."""
    pipelines = [one for one in _PIPELINES if step.name in one.steps]
    off = [one.name for one in pipelines if one.steps[step.name].off]
    if not off:
        return ""
    where = "" if len(off) == len(pipelines) else f" in {', '.join(off)}"
    return f" Off by default{where}; on with --run, or with any of its parameters."


def _default(one: Parameter) -> str:
    """Return a default as it is written on the command line."""
    if one.default is None or isinstance(one.default, bool):
        return str(one.default).lower()
    return str(one.default)


def _plain(text: str, quote: str) -> str:
    """Return text of a docstring without its markup, with names between ``quote``."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", rf"{quote}\1{quote}", text)
    return text.replace(":math:", "").replace("``", quote)


def _options() -> str:
    """Return the rows of a table of the options of ``nsxr extract``."""
    return "".join(f"{_row(cells)}\n" for cells in _rows(extract.params))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "\\<") for cell in cells) + " |"


def _rows(options: Sequence[click.Parameter]) -> Iterator[tuple[str, str, str]]:
    for option in options:
        if isinstance(option, click.Option):
            choices: Any = getattr(option.type, "choices", ())
            names = " ".join(f"`{name}`" for name in (option.opts[-1], *option.secondary_opts))
            default: Any = option.default
            default = ("on" if default else "off") if isinstance(default, bool) else default
            shown = "" if option.multiple or not isinstance(default, str | int | float) else f"`{default}`"
            words = option.help or ""
            yield names, shown, f"{', '.join(map(str, choices))}. {words}".removeprefix(". ").strip()
