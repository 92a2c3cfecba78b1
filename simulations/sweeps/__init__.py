"""Many runs of one study, with other settings and seeds, and what they tell together."""
