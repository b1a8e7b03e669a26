__version__ = "0.2.0"
CITATION = (
    "Namekata et al., EmerDiff: Emerging Pixel-level Semantic Knowledge in Diffusion Models, ICLR 2024, arXiv 2401.11739; "
    f"segmented by EmerDiff workbook {__version__}."
)
