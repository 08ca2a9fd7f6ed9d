"""Records over ZeroMQ: the publisher, its sockets, and the keys of those who may listen."""
