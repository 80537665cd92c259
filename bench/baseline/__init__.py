"""What trunkline is measured against in the same run."""
