"""The recipe of ``builtin:sprites``: how a small real Stable Diffusion is made.

Data, training, evaluation and export. The package stands alone: it makes the folder that the farm
ships and imports nothing of the farm, so that a change of the product can never change what was
trained.
"""
