"""Small latent diffusion models of one's own, from pictures alone: ``python -m emerdiff_lib.train --images FOLDER``."""
