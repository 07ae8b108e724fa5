"""The student on the test set: the only stage that may read the test labels."""
