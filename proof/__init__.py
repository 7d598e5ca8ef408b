"""Networks whose weights cannot be had here, proven against their reference implementations with seeded weights."""
