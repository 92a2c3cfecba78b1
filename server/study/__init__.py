"""One study from its offer to its last weights: plans, rounds, exact sums, evaluation."""
