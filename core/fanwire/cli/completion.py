"""What a shell may complete beyond commands and options: URLs by their scheme, and the schemes."""

from __future__ import annotations

__all__ = ("complete_scheme", "complete_url")


def complete_url(incomplete: str) -> list[str]:
    """Return the beginnings of URLs of all transports that are installed."""
    from importlib.metadata import entry_points

    from ..registry import GROUP

    names = {f"{entry.name.lower()}://" for entry in entry_points(group=GROUP)}
    return sorted(name for name in names if name.startswith(incomplete))


def complete_scheme(incomplete: str) -> list[str]:
    """Return the schemes of all transports that are installed or known."""
    from .transports import schemes

    return [scheme for scheme in schemes() if scheme.startswith(incomplete)]
