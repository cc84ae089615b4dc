"""Faces for training and evaluation."""
