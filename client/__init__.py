"""The hospital's side: images, private training, ledger, policy, and the one door out."""
