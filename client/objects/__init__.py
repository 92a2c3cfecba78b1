"""DICOM objects of a model's predictions, which a viewer opens beside the images.

Every object is for research use only and says so. Functions of data sets and arrays: no file is
read or written here.
"""
