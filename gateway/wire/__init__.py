"""What goes over the wire: requests with their limits, answers with their meaning.

Requests are validated by these models. Answers are documented by them and built as plain dictionaries, which is
what the hot path can afford; a test holds the two against each other.
"""
