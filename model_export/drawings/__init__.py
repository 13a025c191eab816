"""Drawn pictures of twelve classes, for machines that cannot download a data set."""
