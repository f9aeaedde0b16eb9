"""Torch pipelines to ONNX bundles, with proof that they compute the same pictures.

`components` says as data what is exported, `tracing` makes graphs of it, `lowering`, `fusing` and
`quantizing` suit them to what will run them, `verify` compares them with torch, `saving` writes the
folder, and `export` does all of it in order.

The package may import `farm`; the farm reaches it in one place only, lazily
(`farm.render.exporting`). The bundle's folder format is their contract (`farm.render.onnx_bundle`).
"""
