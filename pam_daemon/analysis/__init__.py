"""From the ring buffer to records: windows, scores, detections, and one stream's books about them."""
