"""What the coordinator and the sites must agree on. Imports none of the other packages."""
