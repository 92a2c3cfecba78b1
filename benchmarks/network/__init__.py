"""What benchmarks of the network are made of: a coordinator, sites, and Flower's stock parts."""
