"""A new patient's scans: from the scanner's files to a mask, a table of lesions and DICOM objects."""
