"""What would make figures wrong, and its page."""
