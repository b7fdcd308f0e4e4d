"""Training of emoji-sd, the small Stable Diffusion that comes with the package.

`config` has the sizes, `anatomy` and `tokenizer` the networks, `data` the streams of scenes,
`loop` the one training loop; `vae`, `model` and `judge` say what is trained, `evaluate` how good
it is. Nothing here is needed to edit images.
"""
