"""The lane: one batch that stays full while prompts, seeds, guidance, samplers and steps all vary.

- `lane` draws the images of one model at one picture size, with `rows` (each image's sampler as
  numbers) and `sizes` (how many rows to give a network at once). `clock` and `measure` say what the
  networks take.
- `networks` is the seam to a model: what a lane needs of it (`Networks`), and what a model family
  needs of whatever runs its networks (`Runtime`). A new family implements the first, a new runtime
  the second; neither knows of the lane.
- `families`: Stable Diffusion 1 and 2, and Stable Diffusion XL.
- `torch_runtime` runs the networks of a loaded diffusers pipeline, `onnx_runtime` those of an ONNX
  bundle.
- `renderer` makes of lanes the stream of results that a backend promises, and opens backend
  `torch`; `onnx_renderer` opens backend `onnx`.
"""
