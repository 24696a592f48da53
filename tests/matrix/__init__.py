"""Worlds: people, containers and documents with their rules, and who reads what. See `worlds.py` and `README.md`."""
