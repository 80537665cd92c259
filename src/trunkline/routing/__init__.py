"""Who answers which model."""
