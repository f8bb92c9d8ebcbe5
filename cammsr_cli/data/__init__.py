"""Raw files to catalogue and interactions; splits; the prepared HDF5 data set."""
