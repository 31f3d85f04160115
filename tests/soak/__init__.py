"""The soak: minutes of mixed load on a real server, with kills at random; then nothing may be left."""
