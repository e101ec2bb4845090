"""List files and functions of nsxr that are too long; ends with status 1 if there are any.

    python ci/sizes.py

A file may have 400 lines. A function may have 80 lines of code without its docstring. Lists of more than 40 lines are
tables, which do not count.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FILE, FUNCTION, TABLE = 400, 80, 40
PACKAGE = Path(__file__).resolve().parent.parent / "nsxr"


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines of a function without its decorators, its docstring and its tables."""
    parts: list[ast.expr | ast.stmt] = [function.body[0]] if ast.get_docstring(function) is not None else []
    for node in ast.walk(function):
        if isinstance(node, ast.List | ast.Dict | ast.Tuple) and n_lines(node) > TABLE:
            parts.append(node)
    return n_lines(function) - sum(map(n_lines, parts))


def n_lines(node: ast.expr | ast.stmt) -> int:
    """Return the number of lines that a part of a program takes."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def too_long(path: Path) -> Iterator[str]:
    """Yield a line for a file that is too long, and for each of its functions that is too long."""
    text = path.read_text()
    name = path.relative_to(PACKAGE.parent)
    if (length := text.count("\n")) > FILE:
        yield f"{name}: {length} lines, at most {FILE} are wanted"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (length := lines_of_code(node)) > FUNCTION:
            yield f"{name}:{node.lineno}: {node.name} has {length} lines of code, at most {FUNCTION} are wanted"


def main() -> int:
    """Print the files and functions that are too long."""
    found = [line for path in sorted(PACKAGE.rglob("*.py")) for line in too_long(path)]
    print("\n".join(found) or "no file and no function of nsxr is too long")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
