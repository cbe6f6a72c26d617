"""Ask for labels, and take them."""
