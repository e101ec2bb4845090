"""Choose reference files, open them lazily, and cut them to the pixels of an exposure."""

from nsxr.references.choose import open_references

__all__ = ["open_references"]
