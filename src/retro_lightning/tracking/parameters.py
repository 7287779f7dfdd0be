"""Data half: nested configurations as the flat parameters of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping with dotted keys; empty ones are left out."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value):
            value = {str(position): entry for position, entry in enumerate(value)}
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{key}.")
        else:
            flat[key] = value
    return flat
