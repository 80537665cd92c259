"""Configuration: one TOML file, decoded into Structs that refuse what they do not know."""
