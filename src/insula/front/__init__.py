"""The HTTP/1.1 front: httptools parses, an ASGI application answers. It faces the network, so all of it is bounded.

Source: RFC 9110 (semantics), RFC 9112 (HTTP/1.1), and https://asgi.readthedocs.io/en/stable/specs/www.html
"""
