"""The coordinator's daemon: SuperLink, gateway, control service, and one process per study."""
