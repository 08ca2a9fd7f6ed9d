"""Where samples come from: a PortAudio device or a sound file."""
