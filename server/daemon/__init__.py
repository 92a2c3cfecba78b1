"""The daemon of the coordinator: SuperLink, gateway, control service and a process a study."""
