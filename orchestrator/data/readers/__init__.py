"""Data in the formats that users keep it in: folders of files, manifests, tables."""
