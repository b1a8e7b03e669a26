"""Small latent diffusion models of one's own, from images alone: ``python -m emerdiff_lib.train --images FOLDER``."""
