"""The studies behind the notebooks, a file each, named for what they ask; they may use everything, nothing uses them."""
