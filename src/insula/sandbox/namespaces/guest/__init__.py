"""Code that runs in the spawner and in the children it forks, under the function's own Python.

It is mounted into the spawner's root and started as a script: it imports nothing of Insula, only the standard
library, and keeps to the syntax of Python 3.9, older than any runtime that is served.
"""
