"""DICOM: which files are one series and in what order, where their pixels lie, and what these mean."""
