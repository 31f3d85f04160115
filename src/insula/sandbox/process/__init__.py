"""The driver without isolation, for hosts that cannot isolate: plain processes of the server's own user."""
