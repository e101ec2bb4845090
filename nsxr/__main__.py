"""python -m nsxr: the command line."""

from nsxr.cli import run

if __name__ == "__main__":
    run()
