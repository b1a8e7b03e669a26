"""One spelling for every method: rows of tables, keys of stores and parameters of notebooks all use these."""

EMERDIFF = "EmerDiff"
EMERDIFF_GUIDED = "EmerDiff + guided filter"
EMERDIFF_PIXEL = "EmerDiff-Pixel (ours)"
EMERDIFF_FAST = "EmerDiff-Fast (ours)"

# The same coarse masks, brought to pixels without the network
BILINEAR = "bilinear"
BILINEAR_GUIDED = "bilinear + guided filter"
BILINEAR_WALKER = "bilinear + random walker"
BILINEAR_ADAPTIVE = "bilinear + pixel-adaptive"

# The same coarse features, brought to pixels without modulated denoising, and made into segments as pixel mode does
QUERIES_BILINEAR = "query features, bilinear"
QUERIES_GUIDED = "query features + guided filter"
QUERIES_BILATERAL = "query features + joint bilateral"
QUERIES_ADAPTIVE = "query features + pixel-adaptive"
QUERIES_BOTH = "query features + both filters"  # guided, then pixel-adaptive, as in pixel mode
QUERIES_WALK = "query features + random walk"
QUERIES_ATTENTION = "query features + self-attention"
QUERIES_OPTIMISED = "query features, optimised"

# The image alone, without any model
COLOUR = "colour + position k-means"
COLOUR_CELLS = "colour + position k-means of cells"
POSITION = "position k-means"
SLIC = "SLIC"
FELZENSZWALB = "Felzenszwalb"

# Other features and other papers; "its own number": as many segments as the method finds by itself
ENCODER = "encoder k-means"
BACKBONE = "backbone k-means"
DIFFSEG = "DiffSeg"
DIFFSEG_OWN = "DiffSeg, its own number"
DIFFCUT = "DiffCut"
DIFFCUT_OWN = "DiffCut, its own number"

UPPER_BOUND = "grid upper bound"  # the true labels, as well as the feature grid can hold them
