"""Keras networks: built, loaded from published HDF5 weights, and written as ONNX graphs once.

Only `layers`, and what imports it, needs Keras; nothing of that is imported where requests are served.
"""
