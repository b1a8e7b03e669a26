"""Many images: results that are kept one by one, so that long runs go on where they stopped."""
