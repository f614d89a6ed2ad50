# What the guest is for: the tests, and one way's latency beside that of the system's own tool.
/tests/verbs --include-ignored --test-threads=1
