"""References: choose them, open them lazily, cut them to an exposure."""

from nsxr.references.choose import open_references

__all__ = ["open_references"]
