"""What the server says about itself: logs and usage. Never prompts, keys or bodies."""
