"""A list in a message: the first few items, and how many more there are."""

from collections.abc import Sequence


def listing(items: Sequence[str], most: int = 5) -> str:
    """Return at most `most` items on one line, such as `a, b and 3 more`."""
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def listing_lines(items: Sequence[str], most: int = 20, *, rest: str = "more") -> list[str]:
    """Return indented lines: at most `most` items, and how many more there are, which `rest` calls them."""
    remaining = [f"and {len(items) - most} {rest}"] if len(items) > most else []
    return [f"  {item}" for item in [*items[:most], *remaining]]
