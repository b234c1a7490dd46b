"""Pictures: slices as a radiologist sees them."""
