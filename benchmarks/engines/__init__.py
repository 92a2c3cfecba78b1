"""One exchange of messages under Flower's engine and under ours, each in a process of its own."""
