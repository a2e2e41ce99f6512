"""``python -m fanwire.cli``: the command line where its script is not on the path."""

from __future__ import annotations

from . import main

__all__ = ()

if __name__ == "__main__":
    main()
