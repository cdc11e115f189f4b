"""Numbers of bytes for people."""


def size(num_bytes: int | None) -> str:
    """A number of bytes for people, in powers of 1000, or "?"."""
    if num_bytes is None:
        return "?"
    value, unit = float(num_bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):  # noqa: B007
        if value < 999.5:
            break
        value /= 1000
    return f"{value:.3g} {unit}"
