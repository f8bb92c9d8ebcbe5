"""The CAMMSR model in plain torch; imports nothing else of this project."""
