"""From a hydrophone or a file into the ring buffer: sources, sample numbers, the clock of a stream, its hearing."""
