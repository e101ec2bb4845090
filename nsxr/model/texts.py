"""Read header keywords as words, whatever their type is."""

from nsxr.model.types import Named

__all__ = ["in_capitals", "is_true", "text_of"]


def text_of(header: Named, key: str) -> str:
    """Return the text of any keyword, without blanks around it. Empty if the keyword is missing."""
    value = header.get(key)
    return "" if value is None else str(value).strip()


def in_capitals(header: Named, key: str) -> str:
    """Return the text of any keyword in capitals, as :func:`text_of`."""
    return text_of(header, key).upper()


def is_true(header: Named, key: str) -> bool:
    """Return whether a keyword is T. Attributes of Datasets have 1 and 0 for T and F."""
    return in_capitals(header, key) in ("T", "TRUE", "1")
