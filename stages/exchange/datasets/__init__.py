"""One file for each form of training data: preference pairs, labels, labelled steps."""
