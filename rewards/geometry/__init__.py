"""Geometry on the answer grid: how well boxes, points, polygons and key points agree, and which points lie in masks.

It knows neither labels nor rewards.
Imports: nothing outside this package.
Begin with boxes.py, then polygons.py, keypoints.py and masks.py; pairs.py finds the pairs to measure.
"""
