"""What travels between a coordinator and a site."""
