"""Reading, merging, checking and instantiating configurations.

Kept free of imports, so that the errors can be named without loading torch or Lightning.
"""
