"""The fuzzer's words, its table of public functions, the kinds of their arguments, its judge."""
