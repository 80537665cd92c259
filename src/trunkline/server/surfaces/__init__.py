"""HTTP resources offered to clients. A surface picks a dialect and owns nothing else; surfaces do not know each other."""
