"""The changes of the schema, each after the one that it names."""
