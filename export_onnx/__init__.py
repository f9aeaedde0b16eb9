"""Torch pipelines to ONNX bundles, with proof that they compute the same pictures.

The package may import `farm`; the farm reaches it in one place only, lazily. The bundle's folder
format is their contract.
"""
