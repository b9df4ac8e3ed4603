"""A user's project as files: packed, sent, unpacked, started from templates; and this package as a wheel."""
