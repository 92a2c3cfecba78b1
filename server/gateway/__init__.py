"""The coordinator's public gateway: the checks that a request passes before Flower sees it."""
