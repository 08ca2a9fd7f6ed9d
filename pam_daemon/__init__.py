"""pamd: listens to the sea for whales and warns ships."""
