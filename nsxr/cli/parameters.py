"""nsxr parameters: what can be set, as the functions declare it."""

import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import click

from nsxr.cli.extraction import extract
from nsxr.cli.options import complete_steps, reports_errors
from nsxr.model.parameters import Parameter
from nsxr.pipelines.detector1 import STEPS, check_settings

__all__ = ["parameters"]

_INTRODUCTION = """# Parameters

<!-- made by: nsxr parameters --markdown > docs/parameters.md -->

The steps of stage 1 in their order, with all of their parameters. `nsxr parameters`, or `nsxr parameters jump` for one
step, prints the same in a terminal. Wrong names and values are refused before anything is computed.

On the command line, each parameter has its own `--set`; in Python, a step takes a mapping; in a recipe, a table:

```console
nsxr detector1 jw01234001001_03101_00001_nrs1_uncal.fits --references crds --set jump.rejection_threshold=5
nsxr detector1 jw01234001001_03101_00001_nrs1_uncal.fits --recipe my_recipe.toml
```

```py
nsxr.detector1(exposure, references, jump={"rejection_threshold": 5.0}, skip=["dark_current"])
```

```toml
references = "crds"
skip = ["dark_current"]

[parameters.jump]
rejection_threshold = 5.0
```

Beside the products, `nsxr detector1` writes `ROOT_recipe.toml`: all parameters, defaults filled in, the steps that were
skipped, and the references that were chosen. `--recipe` with that file does the same again.
"""

_EXTRACT = """
## Options of `nsxr extract`

| option | default | meaning |
| --- | --- | --- |
"""


@click.command()
@click.argument("step", required=False, shell_complete=complete_steps)
@click.option("--markdown", is_flag=True, help="As the page of the documentation.")
@reports_errors
def parameters(step: str | None, markdown: bool) -> None:
    """List the parameters of the steps, or of one STEP, with types, units and defaults."""
    if step is not None:
        check_settings({step: {}}, ())  # says which one may have been meant
    names = list(STEPS) if step is None else [step]
    if not markdown:
        click.echo("\n\n".join(_in_terminal(name, shutil.get_terminal_size().columns) for name in names))
        return
    page = "\n".join(_in_markdown(name) for name in names)
    click.echo(f"{_INTRODUCTION}\n{page}{_EXTRACT}{_options()}" if step is None else page, nl=step is not None)


def _summary(step: str) -> str:
    """Return what a step does: the first lines of its functions."""
    return " ".join((inspect.getdoc(function) or "").partition("\n")[0] for function in STEPS[step].functions)


def _in_terminal(step: str, width: int) -> str:
    """Return the parameters of a step as lines that fit."""
    width = max(width, 40)

    def wrapped(text: str, indent: str) -> str:
        return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False)

    lines = [wrapped(f"{step}: {_plain(_summary(step), '')}", "")]
    for one in STEPS[step].declared.values():
        unit = f" [{one.unit}]" if one.unit else ""
        limits = f": {one.limits}" if one.choices else f", {one.limits}" if one.limits else ""
        lines += ["", wrapped(f"{one.name} = {_default(one)}   {one.type_name}{unit}{limits}", "  ")]
        lines.append(wrapped(_plain(one.meaning, ""), "      "))
    return "\n".join(lines if STEPS[step].declared else [*lines, "", "  no parameters"])


def _in_markdown(step: str) -> str:
    """Return the parameters of a step as a section of a page."""
    lines = [f"## {step}", "", _plain(_summary(step), "`"), ""]
    if STEPS[step].declared:
        lines += ["| parameter | type | unit | default | range | meaning |", "| --- | --- | --- | --- | --- | --- |"]
    for one in STEPS[step].declared.values():
        cells = (f"`{one.name}`", one.type_name, one.unit, f"`{_default(one)}`", one.limits, _plain(one.meaning, "`"))
        lines.append(_row(cells))
    return "\n".join(lines if STEPS[step].declared else [*lines, "No parameters.", ""]).rstrip() + "\n"


def _default(one: Parameter) -> str:
    """Return a default as it is written on the command line."""
    if one.default is None or isinstance(one.default, bool):
        return str(one.default).lower()
    return str(one.default)


def _plain(text: str, quote: str) -> str:
    """Return text of a docstring without its markup; names between ``quote``."""
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
