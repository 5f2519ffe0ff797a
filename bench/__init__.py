"""What vmpack costs beside the tools that it stands beside: ``python -m bench``."""
