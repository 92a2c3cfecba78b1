"""What the administrator of a site sees, asks and decides."""
