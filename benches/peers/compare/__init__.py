"""The comparison with other SNI passthrough proxies; ../run is its command, ../README.md says what is measured."""
