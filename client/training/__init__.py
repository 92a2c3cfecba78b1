"""What is computed from patients: a round's change and an evaluation's histogram."""
