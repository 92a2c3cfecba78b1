"""The coordinator's side: rounds, exact aggregation, server optimisers, checkpoints."""
