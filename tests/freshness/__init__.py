"""Freshness under fire: servers that follow a database while everything around them breaks."""
