"""The daemon of a site: a fleet connection, a worker, and what the administrator asks of them."""
