"""`pamd doctor`: examination.py has all of it, the other modules the checks."""
