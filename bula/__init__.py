"""bula: what the pipeline's stages share. Each module holds one decision that two stages must agree on."""
