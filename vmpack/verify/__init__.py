"""Whether a bundle does what it is expected to do on this host."""
