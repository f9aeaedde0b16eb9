"""The lane: one batch that stays full while prompts, seeds, guidance, samplers and steps all vary.

Four parts, each ignorant of the next:

- `networks`: what a lane needs of a model (`Networks`), and what a model family needs of whatever
  runs its networks (`Runtime`). A new runtime implements the second, a new family the first.
- `families`: Stable Diffusion 1 and 2, and Stable Diffusion XL.
- `torch_runtime`: a loaded diffusers pipeline's networks, run by torch.
"""
