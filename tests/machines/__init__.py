"""Virtual machines for tests that need another kernel, or another set-up of the kernel, than this host's."""
