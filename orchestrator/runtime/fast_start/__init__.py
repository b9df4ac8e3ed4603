"""Patches of libraries that make workers start faster, each with what it saves and when it can go."""
