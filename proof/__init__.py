"""Checks of networks and pipelines against their originals; development only."""
