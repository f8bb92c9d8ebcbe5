"""Where a picture or a clip is, safely: paths, addresses, downloads and their cache."""
