"""What people run beside the daemon: simulate, compare, draw."""
