"""Safe access to images and videos: paths, URLs, downloads and their cache."""
