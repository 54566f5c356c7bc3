"""The data doctor: looks for everything that is wrong with a data set, instead of stopping at the first fault."""
