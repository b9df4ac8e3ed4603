"""Limits of what is submitted."""

from __future__ import annotations

UPLOAD_LIMIT = "100MiB"
"""The largest project that is sent, unless --upload-limit says otherwise."""
