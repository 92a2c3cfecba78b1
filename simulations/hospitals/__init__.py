"""Made-up hospitals on disk: drawn, or cut from a MedMNIST file, as DICOM archives."""
